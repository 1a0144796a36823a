package stats_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/pacemaker/stats"
)

// happened are the counters of what happens to logs.
func happened(s stats.Status) any {
	return []uint64{s.Requests, s.Broken, s.Rotations, s.Truncations, s.Lost}
}

var _ = Describe("Reader, of a log that is rotated", func() {
	It("finishes the old one first, which its writer goes on with", func() {
		url, log := startMini(), newLog().open()
		log.requests(0, 3)
		r := read(url, log.path)
		r.shows(happened, []uint64{3, 0, 0, 0, 0})
		log.rotate(".1")
		log.requests(3, 3)
		r.shows(happened, []uint64{6, 0, 0, 0, 0})
		// As logrotate makes it before it tells the writer.
		Expect(os.WriteFile(log.path, nil, 0o600)).To(Succeed())
		Consistently(func() uint64 { return r.Status().Rotations }).WithTimeout(60 * time.Millisecond).Should(BeZero())
		log.requests(6, 3)
		r.shows(happened, []uint64{9, 0, 0, 0, 0})
		log.open().requests(9, 3)
		r.shows(happened, []uint64{12, 0, 1, 0, 0})
	})

	It("reads on in the old one while it grows, though there is a new one", func() {
		url, log := startMini(), newLog().open()
		log.requests(0, 1)
		r := read(url, log.path, func(o *stats.Options) { o.Settle = time.Minute })
		r.shows(happened, []uint64{1, 0, 0, 0, 0})
		log.rotate(".1")
		old := log.file
		log.file = nil
		defer old.Close()
		log.open().requests(1, 1)
		r.shows(func(s stats.Status) any { return s.Behind }, int64(len(request(1))))
		_, err := io.WriteString(old, request(2)) // another worker of the writer
		Expect(err).NotTo(HaveOccurred())
		r.shows(happened, []uint64{2, 0, 0, 0, 0})
	})

	It("finds the old one again, and all that came after, when it was not there", func() {
		url, log := startMini(), newLog().open()
		log.requests(0, 3)
		r := read(url, log.path)
		r.shows(happened, []uint64{3, 0, 0, 0, 0})
		r.stop()
		log.requests(3, 2)
		for i := range 5 {
			log.rotate(".new")
			for n := 4; n > 0; n-- {
				_ = os.Rename(log.path+"."+string(rune('0'+n)), log.path+"."+string(rune('1'+n)))
			}
			Expect(os.Rename(log.path+".new", log.path+".1")).To(Succeed())
			log.open().requests(5+i, 1)
		}
		r = read(url, log.path)
		r.shows(happened, []uint64{7, 0, 5, 0, 0})
		r.stop()
		r = read(url, log.path)
		log.requests(10, 1)
		r.shows(happened, []uint64{1, 0, 0, 0, 0})
	})

	It("knows which log was there first, though that had no line then", func() {
		url, log := startMini(), newLog().open()
		client := connect(url)
		r := read(url, log.path)
		Eventually(func() int64 { return client.Exists(ctx, "switchboard:position:n1").Val() }).Should(BeEquivalentTo(1))
		r.stop()
		log.requests(0, 3)
		log.rotate(".1")
		log.open().requests(3, 1)
		r = read(url, log.path)
		r.shows(happened, []uint64{4, 0, 1, 0, 0})
		log.rotate(".2")
		log.open()
		r.stop()
		r = read(url, log.path)
		Expect(os.Remove(log.path + ".1")).To(Succeed())
		log.requests(4, 1)
		r.shows(happened, []uint64{1, 0, 1, 0, 0})
	})

	It("knows rotated logs by their names, and leaves others alone", func() {
		url, log := startMini(), newLog().open()
		log.requests(0, 1)
		r := read(url, log.path)
		r.shows(happened, []uint64{1, 0, 0, 0, 0})
		r.stop()
		dir := filepath.Dir(log.path)
		log.rotate(".20261124")
		for i, name := range []string{"access.log-20261125", "access-2026.11.26.log", "access.log.2026-11-27T10:00:00", "access.log.old"} {
			Expect(os.WriteFile(filepath.Join(dir, name), []byte(request(1+i)), 0o600)).To(Succeed())
		}
		for i, name := range []string{"access.log.paasmaker", "access.log.1.gz", "access.log.errors", "error.log.1", "access.log~", "access.log.1.swp"} {
			Expect(os.WriteFile(filepath.Join(dir, name), []byte(request(100+i)), 0o600)).To(Succeed())
		}
		Expect(os.Mkdir(filepath.Join(dir, "access.log.9"), 0o700)).To(Succeed())
		log.open().requests(10, 1)
		r = read(url, log.path)
		r.shows(happened, []uint64{5, 0, 5, 0, 0})
		Consistently(func() any { return happened(r.Status()) }).WithTimeout(50 * time.Millisecond).Should(Equal([]uint64{5, 0, 5, 0, 0}))
	})

	It("reads none twice that is written to, or touched, after it was read", func() {
		url, log := startMini(), newLog().open()
		log.requests(0, 3)
		r := read(url, log.path)
		r.shows(happened, []uint64{3, 0, 0, 0, 0})
		for i, suffix := range []string{".3", ".2"} {
			log.rotate(suffix)
			log.open().requests(3+i, 1)
			r.shows(happened, []uint64{uint64(4 + i), 0, uint64(1 + i), 0, 0})
		}
		later := time.Now().Add(time.Minute)
		Expect(os.Chtimes(log.path+".3", later, later)).To(Succeed())
		content, err := os.ReadFile(log.path + ".2")
		Expect(err).NotTo(HaveOccurred())
		Expect(os.WriteFile(log.path+".5", content, 0o600)).To(Succeed())
		log.rotate(".1")
		log.open().requests(5, 1)
		r.shows(happened, []uint64{6, 0, 3, 0, 0})
		r.stop()
		r = read(url, log.path)
		log.requests(6, 1)
		r.shows(happened, []uint64{1, 0, 0, 0, 0})
	})

	It("reads all of those that begin alike", func() {
		url, log := startMini(), newLog().open()
		alike := strings.Repeat("-", 1000) + "\n"
		log.write(alike, request(0))
		r := read(url, log.path)
		r.shows(happened, []uint64{1, 1, 0, 0, 0})
		for i := range 3 {
			log.rotate("." + string(rune('3'-i)))
			log.open().write(alike, request(1+2*i), request(2+2*i))
			r.shows(happened, []uint64{uint64(3 + 2*i), uint64(2 + i), uint64(1 + i), 0, 0})
		}
	})

	It("reports the end of an old one that will never be a line", func() {
		url, log := startMini(), newLog().open()
		line := request(1)
		log.write(request(0), line[:20])
		r := read(url, log.path)
		r.shows(happened, []uint64{1, 0, 0, 0, 0})
		log.rotate(".1")
		log.open().requests(2, 1)
		r.shows(happened, []uint64{2, 1, 1, 0, 0})
	})

	It("reads on in what was deleted, and in what came after", func() {
		url, log := startMini(), newLog().open()
		log.requests(0, 1)
		r := read(url, log.path)
		r.shows(happened, []uint64{1, 0, 0, 0, 0})
		Expect(os.Remove(log.path)).To(Succeed())
		log.requests(1, 1)
		r.shows(happened, []uint64{2, 0, 0, 0, 0})
		log.open().requests(2, 1)
		r.shows(happened, []uint64{3, 0, 1, 0, 0})
	})

	It("says that a log is gone that it has not finished, and reads the next", func() {
		url, log := startMini(), newLog().open()
		log.requests(0, 1)
		r := read(url, log.path)
		r.shows(happened, []uint64{1, 0, 0, 0, 0})
		r.stop()
		log.requests(1, 1)
		log.rotate(".2")
		log.open().requests(2, 1)
		log.rotate(".1")
		log.open().requests(3, 1)
		Expect(os.Remove(log.path + ".2")).To(Succeed())
		r = read(url, log.path)
		r.shows(happened, []uint64{2, 0, 1, 0, 1})
	})

	Context("when it is truncated in place", func() {
		It("begins again, though the log is longer by then", func() {
			url, log := startMini(), newLog().open()
			log.requests(0, 3)
			r := read(url, log.path)
			r.shows(happened, []uint64{3, 0, 0, 0, 0})
			Expect(log.file.Truncate(0)).To(Succeed())
			r.shows(happened, []uint64{3, 0, 0, 1, 0})
			log.requests(3, 2)
			r.shows(happened, []uint64{5, 0, 0, 1, 0})
			r.stop()
			Expect(log.file.Truncate(0)).To(Succeed())
			log.requests(5, 50)
			r = read(url, log.path)
			r.shows(happened, []uint64{50, 0, 0, 1, 0})
		})

		It("reads its copy first", func() {
			url, log := startMini(), newLog().open()
			log.requests(0, 3)
			r := read(url, log.path)
			r.shows(happened, []uint64{3, 0, 0, 0, 0})
			r.stop()
			log.requests(3, 4)
			copyTo(log.path, log.path+".1")
			Expect(log.file.Truncate(0)).To(Succeed())
			log.requests(7, 2)
			r = read(url, log.path)
			r.shows(func(s stats.Status) any { return []uint64{s.Requests, s.Lost} }, []uint64{6, 0})
			copyTo(log.path, log.path+".1")
			Expect(log.file.Truncate(0)).To(Succeed())
			log.requests(9, 1)
			r.shows(func(s stats.Status) any { return []uint64{s.Requests, s.Lost} }, []uint64{7, 0})
		})
	})
})

func copyTo(from, to string) {
	GinkgoHelper()
	content, err := os.ReadFile(from)
	Expect(err).NotTo(HaveOccurred())
	Expect(os.WriteFile(to, content, 0o600)).To(Succeed())
	Expect(strings.Count(string(content), "\n")).NotTo(BeZero())
}
