package web_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"switchboard/bridge/web"
)

// pieces is a connection that what is to be read comes from in pieces of those sizes,
// by turns.
type pieces struct {
	net.Conn
	rest  []byte
	sizes []int
	reads int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	size := p.sizes[p.reads%len(p.sizes)]
	p.reads++
	n := copy(b[:min(len(b), size)], p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// readFrames passes stream on as it comes in pieces, read by as many bytes as those
// sizes say.
func readFrames(stream []byte, sizes, reads []int) ([]byte, error) {
	from := web.Frames(&pieces{rest: stream, sizes: sizes}, 32<<10)
	var got []byte
	for i := 0; ; i++ {
		b := make([]byte, reads[i%len(reads)])
		n, err := from.Read(b)
		got = append(got, b[:n]...)
		if err != nil {
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				err = nil
			}
			return got, err
		}
	}
}

// unsplit are sizes that nothing is split by.
var unsplit = []int{64 << 10}

// compose writes frames down behind a preface.
func compose(write func(*http2.Framer, *hpack.Encoder, *bytes.Buffer)) []byte {
	var out, block bytes.Buffer
	out.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&out, nil)
	framer.AllowIllegalWrites = true
	write(framer, hpack.NewEncoder(&block), &block)
	return out.Bytes()
}

// field encodes one.
func field(e *hpack.Encoder, block *bytes.Buffer, name, value string) []byte {
	block.Reset()
	e.WriteField(hpack.HeaderField{Name: name, Value: value})
	return bytes.Clone(block.Bytes())
}

var _ = Describe("frames", func() {
	// passes expects a stream to come out as it went in, however it is split.
	passes := func(stream []byte) {
		GinkgoHelper()
		for _, sizes := range [][]int{unsplit, {1}, {2, 7, 9, 1, 4000}} {
			got, err := readFrames(stream, sizes, []int{4096})
			Expect(err).NotTo(HaveOccurred())
			Expect(bytes.Equal(got, stream)).To(BeTrue())
		}
	}

	It("passes on what it does not look at", func() {
		passes(compose(func(f *http2.Framer, _ *hpack.Encoder, _ *bytes.Buffer) {
			f.WriteSettings()
			f.WriteSettingsAck()
			f.WriteData(1, true, make([]byte, 10000))
			f.WritePing(false, [8]byte{1})
			f.WriteRawFrame(0xbe, 0xff, 7, []byte("unknown"))
			f.WriteRSTStream(1, http2.ErrCodeCancel)
		}))
	})

	It("passes on frames of the most bytes that are allowed, and of more", func() {
		for _, size := range []int{16384, 16385, 100_000} {
			for _, kind := range []http2.FrameType{http2.FrameData, http2.FrameHeaders, http2.FrameSettings, http2.FrameContinuation} {
				passes(compose(func(f *http2.Framer, _ *hpack.Encoder, _ *bytes.Buffer) {
					f.WriteRawFrame(kind, 0, 1, make([]byte, size))
				}))
			}
		}
	})

	It("passes on what is cut off, as far as it is looked at as it comes", func() {
		stream := compose(func(f *http2.Framer, _ *hpack.Encoder, _ *bytes.Buffer) { f.WriteData(1, true, make([]byte, 100)) })
		passes(stream[:len(stream)-1])
		passes(stream[:10])
	})

	It("keeps the last of each setting, in the order that they had", func() {
		stream := compose(func(f *http2.Framer, _ *hpack.Encoder, _ *bytes.Buffer) {
			f.WriteSettings(
				http2.Setting{ID: http2.SettingEnablePush, Val: 1}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1},
				http2.Setting{ID: http2.SettingEnablePush, Val: 0}, http2.Setting{ID: 0xff, Val: 3}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 2},
			)
			f.WriteData(1, true, nil)
		})
		want := compose(func(f *http2.Framer, _ *hpack.Encoder, _ *bytes.Buffer) {
			f.WriteSettings(
				http2.Setting{ID: http2.SettingEnablePush, Val: 0}, http2.Setting{ID: 0xff, Val: 3}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 2},
			)
			f.WriteData(1, true, nil)
		})
		got, err := readFrames(stream, []int{3}, []int{5})
		Expect(err).NotTo(HaveOccurred())
		Expect(got).To(Equal(want))
	})

	It("leaves settings alone that make no whole number of them, or are too many", func() {
		for _, size := range []int{1, 11, 13, 101 * 6} {
			passes(compose(func(f *http2.Framer, _ *hpack.Encoder, _ *bytes.Buffer) {
				f.WriteRawFrame(http2.FrameSettings, 0, 0, make([]byte, size))
			}))
		}
	})

	It("ends with a client that sends settings only", func() {
		stream := compose(func(f *http2.Framer, _ *hpack.Encoder, _ *bytes.Buffer) {
			for range 1001 {
				f.WriteSettings()
			}
		})
		got, err := readFrames(stream, unsplit, unsplit)
		Expect(err).To(MatchError(ContainSubstring("settings")))
		Expect(got).To(HaveLen(len(stream) - 9))
	})

	DescribeTable("ends before a field that belongs to a connection", func(name, value string, write func(*http2.Framer, []byte)) {
		var before int
		stream := compose(func(f *http2.Framer, e *hpack.Encoder, block *bytes.Buffer) {
			f.WriteSettings()
			before = len(http2.ClientPreface) + 9
			write(f, append(field(e, block, ":method", "GET"), field(e, block, name, value)...))
		})
		for _, sizes := range [][]int{unsplit, {1}} {
			got, err := readFrames(stream, sizes, []int{100})
			Expect(err).To(MatchError(ContainSubstring("belongs to a connection")))
			Expect(len(got)).To(BeNumerically("<", len(stream)))
			Expect(len(got)).To(BeNumerically(">=", before))
			Expect(bytes.HasPrefix(stream, got)).To(BeTrue())
		}
	},
		Entry("in a frame", "connection", "close", func(f *http2.Framer, block []byte) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true})
		}),
		Entry("in a frame with padding and priority", "upgrade", "h2c", func(f *http2.Framer, block []byte) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true, PadLength: 200, Priority: http2.PriorityParam{StreamDep: 3, Weight: 9}})
		}),
		Entry("split over CONTINUATION", "transfer-encoding", "chunked", func(f *http2.Framer, block []byte) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:2]})
			for i := 2; i < len(block); i++ {
				f.WriteContinuation(1, i+1 == len(block), block[i:i+1])
			}
		}),
		Entry("from the table", "keep-alive", "1", func(f *http2.Framer, block []byte) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true})
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: []byte{0x80 | 62}, EndHeaders: true})
		}),
		Entry("TE with more than trailers", "te", "trailers, gzip", func(f *http2.Framer, block []byte) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true})
		}),
	)

	It("passes on fields that belong to a request", func() {
		passes(compose(func(f *http2.Framer, e *hpack.Encoder, block *bytes.Buffer) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, PadLength: 3, BlockFragment: field(e, block, "te", "trailers")})
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, EndHeaders: true, BlockFragment: field(e, block, "x-connection", strings.Repeat("close", 100))})
		}))
	})

	It("leaves it to the server what cannot be read", func() {
		for _, payload := range [][]byte{{}, {0xff}, {0x80}, {0x40, 1}, bytes.Repeat([]byte{0xff}, 100)} {
			passes(compose(func(f *http2.Framer, _ *hpack.Encoder, _ *bytes.Buffer) {
				for _, flags := range []http2.Flags{0, 4, 8, 0x20, 0x2c} {
					f.WriteRawFrame(http2.FrameHeaders, flags, 1, payload)
				}
				f.WriteRawFrame(http2.FrameContinuation, 4, 1, payload)
			}))
		}
	})
})

func FuzzFrames(f *testing.F) {
	f.Add([]byte{}, uint64(1))
	f.Add(compose(func(f *http2.Framer, e *hpack.Encoder, block *bytes.Buffer) {
		f.WriteSettings(http2.Setting{ID: 1, Val: 2}, http2.Setting{ID: 1, Val: 3})
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, PadLength: 3, BlockFragment: field(e, block, "te", "trailers")})
		f.WriteData(1, true, []byte("data"))
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: field(e, block, "connection", "close")})
		f.WriteContinuation(3, true, nil)
	}), uint64(2))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		want, ended := readFrames(bytes.Clone(stream), unsplit, unsplit)
		random := rand.New(rand.NewPCG(seed, 0))
		sizes, reads := make([]int, 7), make([]int, 5)
		for i := range sizes {
			sizes[i] = 1 + random.IntN(30)
		}
		for i := range reads {
			reads[i] = 1 + random.IntN(30)
		}
		got, err := readFrames(bytes.Clone(stream), sizes, reads)
		if !bytes.Equal(got, want) || !errors.Is(err, ended) {
			t.Fatalf("as a whole %q, %v; in pieces %q, %v", want, ended, got, err)
		}
		if len(want) > len(stream) {
			t.Fatalf("%d bytes of %d", len(want), len(stream))
		}
	})
}

// sink is a connection that keeps what is written.
type sink struct {
	net.Conn
	bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) { return s.Buffer.Write(p) }
func (s *sink) Read(p []byte) (int, error)  { return s.Conn.Read(p) }

var _ = Describe("frames that are written", func() {
	It("reset with CANCEL what the server resets for no reason of its own, and are else as they were", func() {
		var plain, want bytes.Buffer
		for _, to := range []*bytes.Buffer{&plain, &want} {
			f := http2.NewFramer(to, nil)
			Expect(f.WriteData(1, false, []byte{0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 2})).To(Succeed())
			code := http2.ErrCodeInternal
			if to == &want {
				code = http2.ErrCodeCancel
			}
			Expect(f.WriteRSTStream(1, code)).To(Succeed())
			Expect(f.WriteRSTStream(3, http2.ErrCodeProtocol)).To(Succeed())
			Expect(f.WriteGoAway(3, http2.ErrCodeInternal, nil)).To(Succeed())
		}
		for _, cut := range []int{1, 9, 22} {
			var got sink
			f := web.Frames(&got, 32<<10)
			before := bytes.Clone(plain.Bytes())
			for _, piece := range [][]byte{plain.Bytes()[:cut], plain.Bytes()[cut:]} {
				Expect(f.Write(piece)).To(Equal(len(piece)))
			}
			Expect(got.Bytes()).To(Equal(want.Bytes()), "cut at %d", cut)
			Expect(plain.Bytes()).To(Equal(before))
		}
	})
})
