package h1_test

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestH1(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "H1 Suite")
}
