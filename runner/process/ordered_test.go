package process_test

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/tedsuo/ifrit"

	"switchboard/runner/process"
)

var _ = Describe("Ordered", func() {
	var api, monitor, listener *scripted

	group := func() process.Runner {
		return process.Ordered(
			process.Member{Name: "api", Runner: api},
			process.Member{Name: "monitor", Runner: monitor},
			process.Member{Name: "listener", Runner: listener},
		)
	}

	BeforeEach(func() {
		api, monitor, listener = newScripted(0), newScripted(0), newScripted(0)
	})

	allReady := func() {
		api.readied()
		monitor.readied()
		listener.readied()
	}

	Describe("starting", func() {
		It("starts each member when the one before is ready, and is ready with the last", func() {
			p := begin(group())
			DeferCleanup(func() {
				for _, s := range []*scripted{api, monitor, listener} {
					s.leave <- nil
				}
			})

			Eventually(api.started).Should(BeClosed())
			Consistently(monitor.started, short).ShouldNot(BeClosed())
			close(api.ready)
			Eventually(monitor.started).Should(BeClosed())
			Consistently(listener.started, short).ShouldNot(BeClosed())
			close(monitor.ready)
			Eventually(listener.started).Should(BeClosed())
			Consistently(p.Ready(), short).ShouldNot(BeClosed())
			close(listener.ready)
			Eventually(p.Ready()).Should(BeClosed())
		})

		It("is ready without members, and ends with nil on a signal", func() {
			p := ifrit.Invoke(process.Ordered())
			Expect(p.Ready()).To(BeClosed())
			p.Signal(os.Interrupt)
			Eventually(p.Wait()).Should(Receive(BeNil()))
		})

		It("stops the started ones in reverse if a member fails before it is ready", func() {
			api.readied()
			monitor.readied()
			p := begin(group())
			Eventually(listener.started).Should(BeClosed())
			listener.leave <- errBroken

			Eventually(monitor.heard).Should(Receive(Equal(syscall.SIGTERM)))
			Consistently(api.heard, short).ShouldNot(Receive())
			monitor.leave <- nil
			Eventually(api.heard).Should(Receive(Equal(syscall.SIGTERM)))
			api.leave <- nil

			var err error
			Eventually(p.Wait()).Should(Receive(&err))
			Expect(err).To(MatchError(errBroken))
			Expect(err).To(MatchError(`member "listener" ended before it was ready: broken`))
			Expect(p.Ready()).NotTo(BeClosed())
		})

		It("never becomes ready if an earlier member ends while a later one starts", func() {
			api.readied()
			p := begin(group())
			Eventually(monitor.started).Should(BeClosed())
			api.leave <- nil

			Eventually(monitor.heard).Should(Receive())
			monitor.leave <- nil
			var err error
			Eventually(p.Wait()).Should(Receive(&err))
			Expect(err).To(MatchError(process.ErrEnded))
			Expect(err).To(MatchError(ContainSubstring(`member "api" ended early`)))
			Expect(listener.started).NotTo(BeClosed())
			Expect(p.Ready()).NotTo(BeClosed())
		})

		It("stops on a signal although a member has not become ready", func() {
			api.readied()
			p := begin(group())
			Eventually(monitor.started).Should(BeClosed())
			p.Signal(os.Interrupt)

			Eventually(monitor.heard).Should(Receive(Equal(os.Interrupt)))
			monitor.leave <- nil
			Eventually(api.heard).Should(Receive(Equal(os.Interrupt)))
			api.leave <- nil
			Eventually(p.Wait()).Should(Receive(BeNil()))
			Expect(listener.started).NotTo(BeClosed())
			Expect(p.Ready()).NotTo(BeClosed())
		})

		It("takes an identical second signal for now while it starts", func() {
			api, monitor = newScripted(2).readied(), newScripted(2)
			p := begin(group())
			Eventually(monitor.started).Should(BeClosed())
			p.Signal(os.Interrupt)
			Eventually(monitor.heard).Should(Receive())
			p.Signal(os.Interrupt)
			Eventually(p.Wait()).Should(Receive(BeNil()))
			Expect(api.heard).To(HaveLen(2))
		})
	})

	Describe("stopping", func() {
		It("stops in reverse order, each fully ended before the next is told", func() {
			allReady()
			p := begin(group())
			Eventually(p.Ready()).Should(BeClosed())
			p.Signal(syscall.SIGTERM)

			Eventually(listener.heard).Should(Receive(Equal(syscall.SIGTERM)))
			Consistently(monitor.heard, short).ShouldNot(Receive())
			listener.leave <- nil
			Eventually(monitor.heard).Should(Receive(Equal(syscall.SIGTERM)))
			Consistently(api.heard, short).ShouldNot(Receive())
			monitor.leave <- nil
			Eventually(api.heard).Should(Receive(Equal(syscall.SIGTERM)))
			Consistently(p.Wait(), short).ShouldNot(Receive())
			api.leave <- nil
			Eventually(p.Wait()).Should(Receive(BeNil()))
		})

		DescribeTable("forwards a second signal to all members at once (L2)",
			func(first, second os.Signal) {
				api, monitor, listener = newScripted(2), newScripted(2), newScripted(2)
				allReady()
				p := begin(group())
				Eventually(p.Ready()).Should(BeClosed())
				p.Signal(first)
				Eventually(listener.heard).Should(Receive(Equal(first)))
				Consistently(monitor.heard, short).ShouldNot(Receive())

				p.Signal(second)
				Eventually(p.Wait()).Should(Receive(BeNil()))
				Expect(listener.heard).To(Receive(Equal(second)))
				for _, s := range []*scripted{monitor, api} {
					Expect(s.heard).To(Receive(Equal(first)))
					Expect(s.heard).To(Receive(Equal(second)))
				}
			},
			Entry("when it is another one", syscall.SIGINT, syscall.SIGTERM),
			Entry("when it is the same one", syscall.SIGINT, syscall.SIGINT),
		)

		It("keeps both signals for a member that is busy, and drops those after them", func() {
			listening := make(chan struct{})
			heard := make(chan os.Signal, 8) // more than are sent
			busy := ifrit.RunFunc(func(signals <-chan os.Signal, ready chan<- struct{}) error {
				close(ready)
				<-listening
				for range 2 {
					heard <- <-signals
				}
				return nil
			})
			listener = newScripted(4).readied()
			p := begin(process.Ordered(
				process.Member{Name: "busy", Runner: busy},
				process.Member{Name: "listener", Runner: listener},
			))
			Eventually(p.Ready()).Should(BeClosed())
			for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
				p.Signal(s)
				Eventually(listener.heard).Should(Receive(Equal(s)))
			}
			close(listening)
			Eventually(p.Wait()).Should(Receive(BeNil()))
			Expect(heard).To(Receive(Equal(syscall.SIGINT)))
			Expect(heard).To(Receive(Equal(syscall.SIGTERM)))
		})

		It("reaches the members of a group in a group with a second signal", func() {
			monitor, listener = newScripted(2).readied(), newScripted(2).readied()
			p := begin(process.Ordered(
				process.Member{Name: "inner", Runner: process.Ordered(
					process.Member{Name: "monitor", Runner: monitor},
				)},
				process.Member{Name: "listener", Runner: listener},
			))
			Eventually(p.Ready()).Should(BeClosed())
			p.Signal(os.Interrupt)
			Eventually(listener.heard).Should(Receive())
			p.Signal(os.Interrupt)
			Eventually(p.Wait()).Should(Receive(BeNil()))
			Expect(monitor.heard).To(HaveLen(2))
		})

		It("returns what the members returned, joined and named", func() {
			allReady()
			p := begin(group())
			Eventually(p.Ready()).Should(BeClosed())
			p.Signal(os.Interrupt)
			other := errors.New("half a page written")
			listener.leave <- fmt.Errorf("draining: %w", errBroken)
			monitor.leave <- nil
			Eventually(api.heard).Should(Receive())
			api.leave <- other

			var err error
			Eventually(p.Wait()).Should(Receive(&err))
			Expect(err).To(MatchError(errBroken))
			Expect(err).To(MatchError(other))
			Expect(err.Error()).To(ContainSubstring(`member "api": half a page written`))
		})
	})

	Describe("a member that ends early", func() {
		DescribeTable("stops the others in reverse and names it",
			func(cause, want error, text string) {
				allReady()
				p := begin(group())
				Eventually(p.Ready()).Should(BeClosed())
				monitor.leave <- cause

				Eventually(listener.heard).Should(Receive(Equal(syscall.SIGTERM)))
				Consistently(api.heard, short).ShouldNot(Receive())
				listener.leave <- nil
				Eventually(api.heard).Should(Receive())
				api.leave <- nil
				var err error
				Eventually(p.Wait()).Should(Receive(&err))
				Expect(err).To(MatchError(want))
				Expect(err).To(MatchError(text))
				Expect(monitor.heard).NotTo(Receive())
			},
			Entry("when it ended with an error", errBroken, errBroken,
				`member "monitor" ended early: broken`),
			Entry("when it ended with nil", nil, process.ErrEnded,
				`member "monitor" ended early: returned without being asked to stop`),
		)

		It("keeps the error's type for errors.As", func() {
			allReady()
			p := begin(group())
			Eventually(p.Ready()).Should(BeClosed())
			listener.leave <- &os.PathError{Op: "open", Path: "pid", Err: syscall.ENOSPC}
			monitor.leave <- nil
			api.leave <- nil
			var (
				err  error
				path *os.PathError
			)
			Eventually(p.Wait()).Should(Receive(&err))
			Expect(errors.As(err, &path)).To(BeTrue())
			Expect(path.Path).To(Equal("pid"))
		})

		It("leaves the others time after a first signal, and none after a second", func() {
			api, listener = newScripted(2), newScripted(2)
			allReady()
			p := begin(group())
			Eventually(p.Ready()).Should(BeClosed())
			monitor.leave <- errBroken
			Eventually(listener.heard).Should(Receive())
			p.Signal(os.Interrupt)
			Consistently(listener.heard, short).ShouldNot(Receive())
			p.Signal(os.Interrupt)
			Eventually(p.Wait()).Should(Receive(MatchError(errBroken)))
			Expect(listener.heard).To(Receive())
			Expect(api.heard).To(HaveLen(2))
		})

		It("is no error if it returns nil before its turn while all stop, and one if it fails", func() {
			allReady()
			p := begin(group())
			Eventually(p.Ready()).Should(BeClosed())
			p.Signal(os.Interrupt)
			Eventually(listener.heard).Should(Receive())
			monitor.leave <- nil
			api.leave <- errBroken
			Consistently(p.Wait(), short).ShouldNot(Receive())
			listener.leave <- nil
			var err error
			Eventually(p.Wait()).Should(Receive(&err))
			Expect(err).To(MatchError(`member "api" ended early: broken`))
			Expect(api.heard).NotTo(Receive())
		})
	})
})
