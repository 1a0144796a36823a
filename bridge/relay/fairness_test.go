package relay_test

import (
	"io"
	"slices"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/relay"
)

// One that moves as much as it can may not keep the others waiting. How long they wait
// is compared with how long they do without it, in turns: the peers of the bulk want
// the processors as well, which is a small factor. Where bulk has its way until it is
// done, small messages wait for all of it.
var _ = withEngines(func(newEngine maker) {
	It("answers 1,000 small sessions though there is one that has endless bulk", func() {
		expectNoLeaks()
		engine := newEngine(relay.Options{})
		set := engine.NewSet()
		const sessions, rounds, most = 1000, 9, 12
		links := make([]*link, sessions)
		for i := range links {
			l, p := connect(GinkgoTB(), engine)
			links[i] = l
			DeferCleanup(l.close)
			_, err := set.Open(p)
			Expect(err).NotTo(HaveOccurred())
		}
		// turn sends a byte through every session, and returns the time that few exceed:
		// with several loops, only some of the sessions share one with the bulk.
		turn := func() time.Duration {
			took := make([]time.Duration, sessions)
			one := make([]byte, 1)
			for i, l := range links {
				began := time.Now()
				_, _ = l.client.Write(one)
				_, err := io.ReadFull(l.backend, one)
				Expect(err).NotTo(HaveOccurred())
				took[i] = time.Since(began)
			}
			slices.Sort(took)
			return took[sessions*9/10]
		}
		var alone, beside []time.Duration
		for range rounds {
			alone = append(alone, turn())
			bulk := plug(GinkgoTB(), engine, set, nil)
			var peers sync.WaitGroup
			peers.Go(func() { _ = flood(bulk.backend) })
			flowing := make(chan struct{})
			peers.Go(func() {
				_, _ = io.CopyN(io.Discard, bulk.client, 16<<20)
				close(flowing)
				_, _ = io.Copy(onlyWrite{io.Discard}, onlyRead{bulk.client})
			})
			Eventually(flowing, soon).Should(BeClosed())
			beside = append(beside, turn())
			bulk.close()
			peers.Wait()
		}
		slices.Sort(alone)
		slices.Sort(beside)
		// Whoever keeps others waiting does so in each round; other programs do in some.
		AddReportEntry("alone, beside", []time.Duration{alone[rounds/2], beside[0], beside[rounds/2]})
		Expect(beside[0]).To(BeNumerically("<", most*alone[rounds/2]))
	})
})
