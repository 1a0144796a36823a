package h1_test

import (
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	. "github.com/onsi/gomega/gstruct"

	"switchboard/bridge/web/h1"
)

var _ = Describe("Scanner", func() {
	It("finds the end of each head in a row of them (H22)", func() {
		var s h1.Scanner
		text := []byte(get() + "\r\n" + get("A: b") + "GET")
		n, err := s.Scan(text, h1.Limits{})
		Expect(err).To(BeNil())
		Expect(n).To(Equal(len(get())))
		text = text[n:]
		n, err = s.Scan(text, h1.Limits{})
		Expect(err).To(BeNil())
		Expect(n).To(Equal(len("\r\n" + get("A: b"))))
		n, err = s.Scan(text[n:], h1.Limits{})
		Expect(err).To(BeNil())
		Expect(n).To(BeZero())
	})

	It("finds it when it comes a byte at a time (H29)", func() {
		text := []byte("\r\n" + get("A: b\tc", "Accept: text/html;q=0.9, */*"))
		for end := range text {
			n, err := scan(new(h1.Scanner), text[:end], h1.Limits{}, nil)
			Expect(err).To(BeNil())
			Expect(n).To(BeZero())
		}
		n, err := scan(new(h1.Scanner), text, h1.Limits{}, bytewise(string(text)))
		Expect(err).To(BeNil())
		Expect(n).To(Equal(len(text)))
	})

	DescribeTable("refuses, before the head has ended,",
		func(text string, status int, reason string) {
			n, err := scan(new(h1.Scanner), []byte(text), h1.Limits{}, bytewise(text))
			Expect(n).To(BeZero())
			Expect(err).To(PointTo(MatchFields(IgnoreExtras, Fields{"Status": Equal(status), "Reason": Equal(reason)})))
			n, again := new(h1.Scanner).Scan([]byte(text+"\x00"), h1.Limits{})
			Expect(n).To(BeZero())
			Expect(again).To(BeIdenticalTo(err))
		},
		Entry("H6 LF alone", "GET / HTTP/1.1\n", 400, "bare_lf"),
		Entry("H6 LF alone after a field", "GET / HTTP/1.1\r\nHost: a\n", 400, "bare_lf"),
		Entry("H6 LF alone for the empty line", "GET / HTTP/1.1\r\nHost: a\r\n\n", 400, "bare_lf"),
		Entry("H6 LF first", "\n", 400, "bare_lf"),
		Entry("H6 CR alone", "GET / HTTP/1.1\rH", 400, "bare_cr"),
		Entry("H6 CR first", "\rG", 400, "bare_cr"),
		Entry("H6 CR before CRLF", "GET / HTTP/1.1\r\r", 400, "bare_cr"),
		Entry("H9 NUL", "GET /\x00", 400, "control_byte"),
		Entry("H9 a control byte far in", "GET /"+strings.Repeat("a", 100)+"\x1f", 400, "control_byte"),
		Entry("H9 DEL", "GET / HTTP/1.1\r\nA\x7f", 400, "control_byte"),
		Entry("two empty lines, as a PROXY header of version 2 begins", "\r\n\r", 400, "blank_lines"),
		Entry("a ClientHello", "\x16", 400, "tls"),
		Entry("an SSLv2 ClientHello", "\x80", 400, "first_byte"),
		Entry("a space first", " ", 400, "first_byte"),
		Entry("P18 the HTTP/2 preface", "PRI ", 505, "preface"),
	)

	It("returns the HTTP/2 preface as an error of its own (P18)", func() {
		n, err := new(h1.Scanner).Scan([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), h1.Limits{})
		Expect(n).To(BeZero())
		Expect(err).To(BeIdenticalTo(h1.ErrPreface))
	})

	It("waits for as much as the method of the preface needs to be told from others", func() {
		for _, text := range []string{"P", "PR", "PRI", "PU", "PRIX"} {
			n, err := new(h1.Scanner).Scan([]byte(text), h1.Limits{})
			Expect(err).To(BeNil())
			Expect(n).To(BeZero())
		}
		n, err := new(h1.Scanner).Scan([]byte("PRIX / HTTP/1.1\r\n\r\n"), h1.Limits{})
		Expect(err).To(BeNil())
		Expect(n).To(Equal(19))
	})

	Describe("its limits (H27)", func() {
		limits := h1.Limits{Head: 100, Target: 20}
		const line = "GET /aaaaaaaaaaaaaaaaaaa HTTP/1.1\r\n"

		It("accepts a head as long as the limit, and no longer", func() {
			for length, reason := range map[int]string{100: "", 101: "head_too_long", 200: "head_too_long"} {
				text := line + "A: " + strings.Repeat("b", length-len(line)-len("A: \r\n\r\n")) + "\r\n\r\n"
				n, err := new(h1.Scanner).Scan([]byte(text), limits)
				if reason == "" {
					Expect(err).To(BeNil())
					Expect(n).To(Equal(length))
					continue
				}
				Expect(err).To(PointTo(MatchFields(IgnoreExtras, Fields{"Status": Equal(431), "Reason": Equal(reason)})))
			}
		})

		It("refuses a head that reaches the limit without an end", func() {
			n, err := new(h1.Scanner).Scan([]byte(line+"A: "+strings.Repeat("b", 96-len(line))), limits)
			Expect(err).To(BeNil())
			Expect(n).To(BeZero())
			_, err = new(h1.Scanner).Scan([]byte(line+"A: "+strings.Repeat("b", 97-len(line))), limits)
			Expect(err).To(HaveField("Status", 431))
		})

		It("says that it is the target that is too long", func() {
			_, err := new(h1.Scanner).Scan([]byte("GET /"+strings.Repeat("a", 100)), limits)
			Expect(err).To(PointTo(MatchFields(IgnoreExtras, Fields{"Status": Equal(414), "Reason": Equal("target_too_long")})))
			_, err = new(h1.Scanner).Scan([]byte("GET /"+strings.Repeat("a", 50)), limits)
			Expect(err).To(BeNil())
		})

		It("bounds a head of 32 KiB by default", func() {
			_, err := new(h1.Scanner).Scan([]byte(get("A: "+strings.Repeat("b", 32<<10))), h1.Limits{})
			Expect(err).To(HaveField("Reason", "head_too_long"))
			_, err = new(h1.Scanner).Scan([]byte(get("A: "+strings.Repeat("b", 31<<10))), h1.Limits{})
			Expect(err).To(BeNil())
		})
	})

	DescribeTable("refuses a response with 502",
		func(text, reason string) {
			s := h1.Scanner{Response: true}
			n, err := s.Scan([]byte(text), h1.Limits{})
			Expect(n).To(BeZero())
			Expect(err).To(PointTo(MatchFields(IgnoreExtras, Fields{"Status": Equal(502), "Reason": Equal(reason)})))
		},
		Entry("P1 LF alone", "HTTP/1.1 200 OK\n", "bare_lf"),
		Entry("P1 NUL", "HTTP/1.1 200 OK\x00", "control_byte"),
		Entry("P5 an empty line first", "\r\nHTTP/1.1 200 OK\r\n\r\n", "first_byte"),
		Entry("P5 HTTP/0.9", "<html>", "first_byte"),
		Entry("P7 a head over the limit", ok("A: "+strings.Repeat("b", 32<<10)), "head_too_long"),
		Entry("P7 a status line over the limit", "HTTP/1.1 200 "+strings.Repeat("b", 32<<10), "head_too_long"),
	)
})
