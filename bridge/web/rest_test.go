package web_test

import (
	"io"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge"
)

var _ = Describe("Claim", func() {
	It("is not given a backend again that it was retried away from, even if all others are resting", func() {
		r := startRig(rigOptions{hosts: []hostSpec{{name: "a.test", backends: []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"}}}})
		host := r.bridge.Host("a.test")
		for range 50 {
			c := bridge.Claim{Sever: func(error) {}}
			var given []string
			for range 3 {
				Expect(host.Claim(&c, nil)).To(Succeed())
				given = append(given, c.Backend())
				c.Suspect(io.ErrUnexpectedEOF)
				c.Retry()
			}
			Expect(given).To(ConsistOf("b0", "b1", "b2"))
			Expect(host.Claim(&c, nil)).To(Succeed(), "rather one that was tried than none")
			c.Release()
		}
	})
})
