package main_test

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/spec"
)

func TestSwitchboard(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "cmd/switchboard")
}

// binary is the program.
var binary string

var _ = SynchronizedBeforeSuite(
	func() []byte { return []byte(spec.BuildOnce("switchboard/cmd/switchboard")) },
	func(path []byte) { binary = string(path) },
)
