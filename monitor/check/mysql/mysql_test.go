package mysql_test

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/monitor/check"
	"switchboard/monitor/check/mysql"
)

var _ check.Builder = mysql.New

var (
	healthy  = check.Result{Verdict: check.Healthy, Detail: "read_only is off"}
	readOnly = check.Result{Verdict: check.Unhealthy, Detail: "read_only is on"}
	refused  = check.Result{Verdict: check.Unhealthy, Detail: "connection refused"}
	timedOut = check.Result{Verdict: check.Failed, Detail: "timed out"}
)

var _ = Describe("the mysql check", func() {
	Context("with a real MariaDB", Ordered, func() {
		var db *server

		BeforeAll(func() {
			spec.Need("mariadbd", "mariadb-server")
			db = &server{MariaDB: servers.MariaDB{Dir: GinkgoT().TempDir(), Init: users(), Config: []string{"skip_ssl"}}}
			db.start()
		})

		BeforeEach(func() {
			spec.CheckLeaks()
			DeferCleanup(func() { Eventually(db.connections).Should(Equal("0"), "a checker has left a connection") })
		})

		It("follows read_only, on one kept connection", func() {
			t := aim(db.Addr())
			c := build(probe(), t)
			Expect(c.ask()).To(Equal(healthy))
			db.query("SET GLOBAL read_only=ON")
			Expect(c.ask()).To(Equal(readOnly))
			db.query("SET GLOBAL read_only=OFF")
			Expect(c.ask()).To(Equal(healthy))
			Expect(db.connections()).To(Equal("1"))
			Expect(t.dials.Load()).To(BeEquivalentTo(1))
			Expect(t.hints).To(BeEmpty())
			c.close()
		})

		It("finishes every handshake, each of 200 on a connection of its own", func() {
			aborted, clients := db.status("Aborted_connects"), db.status("Aborted_clients")
			for range 200 {
				c := build(probe(), aim(db.Addr()))
				Expect(c.ask()).To(Equal(healthy))
				c.close()
			}
			Eventually(db.connections).Should(Equal("0"))
			Expect(db.status("Aborted_connects")).To(Equal(aborted))
			Expect(db.status("Aborted_clients")).To(Equal(clients))
		})

		DescribeTable("says what to do, and tells no password",
			func(change func(*check.Spec), detail string) {
				with := probe()
				change(&with)
				t := aim(db.Addr())
				c := build(with, t)
				for range 3 {
					Expect(c.ask()).To(Equal(check.Result{Verdict: check.Failed, Detail: detail}))
				}
				Expect(detail).NotTo(Or(ContainSubstring(password), ContainSubstring("hunter2")))
				// The server has answered, so each probe asks again.
				Expect(t.dials.Load()).To(BeEquivalentTo(3))
			},
			Entry("about a wrong password", func(s *check.Spec) { s.Password = "hunter2" },
				"it refuses the username or password: correct the check's username and password_file, and let that user in from this address"),
			Entry("about a missing password", func(s *check.Spec) { s.Password = "" },
				"it refuses the username or password: correct the check's username and password_file, and let that user in from this address"),
			Entry("about an unknown user", func(s *check.Spec) { s.Username = "nobody" },
				"it refuses the username or password: correct the check's username and password_file, and let that user in from this address"),
			Entry("about a database that is not the user's", func(s *check.Spec) { s.Database = "shop" },
				`the user may not use the database "shop": grant it, or leave out the check's database`),
			Entry("about a locked user", func(s *check.Spec) { s.Username = "locked" }, "the user is locked: unlock it"),
		)

		It("says what to do when the database does not exist", func() {
			db.query("GRANT SELECT ON `lost%`.* TO probe@'%'")
			with := probe()
			with.Database = "lost"
			Expect(build(with, aim(db.Addr())).ask()).To(Equal(check.Result{
				Verdict: check.Failed, Detail: `it has no database "lost": correct the check's database`,
			}))
		})

		It("says what to do when the server has no connection left", func() {
			db.query("SET GLOBAL max_connections=10")
			DeferCleanup(func() { db.query("SET GLOBAL max_connections=100") })
			for range 10 {
				Expect(build(probe(), aim(db.Addr())).ask()).To(Equal(healthy))
			}
			Expect(build(probe(), aim(db.Addr())).ask()).To(Equal(check.Result{
				Verdict: check.Failed, Detail: "it has no connection left: raise max_connections, or find out who has them all",
			}))
		})

		It("says which limit of its own the user has reached, and keeps the connection", func() {
			with := probe()
			with.Username = "limited"
			t := aim(db.Addr())
			c := build(with, t)
			for range 3 {
				Expect(c.ask()).To(Equal(healthy))
			}
			for range 3 {
				result := c.ask()
				Expect(result.Verdict).To(Equal(check.Failed))
				Expect(result.Detail).To(And(HavePrefix("the user has reached a limit of its own: "), ContainSubstring("max_queries_per_hour")))
			}
			Expect(t.dials.Load()).To(BeEquivalentTo(1))
		})

		It("says what to do when the server does not offer TLS, and does not try again with each probe", func() {
			with := probe()
			with.TLS.Enabled = true
			t := aim(db.Addr())
			c := build(with, t)
			aborted := db.status("Aborted_connects")
			for range 3 {
				Expect(c.ask()).To(Equal(check.Result{
					Verdict: check.Failed, Detail: "the server does not offer TLS: set it up there, or turn off the check's tls",
				}))
			}
			Expect(t.dials.Load()).To(BeEquivalentTo(1))
			Eventually(func() int { return db.status("Aborted_connects") }).Should(Equal(aborted + 1))
		})

		It("hints when its connection is killed, and asks on a new one", func() {
			t := aim(db.Addr())
			c := build(probe(), t)
			Expect(c.ask()).To(Equal(healthy))
			db.query("KILL USER probe")
			Eventually(t.hints).Should(Receive(ContainSubstring("kept connection")))
			Expect(c.ask()).To(Equal(healthy))
			Expect(t.dials.Load()).To(BeEquivalentTo(2))
			Consistently(t.hints, 50*time.Millisecond).ShouldNot(Receive())
		})

		It("fails at the deadline while the server is frozen, on one connect however often it is asked", func() {
			t := aim(db.Addr())
			c := build(probe(), t)
			Expect(c.ask()).To(Equal(healthy))
			aborted := db.status("Aborted_connects")
			db.Pause()
			DeferCleanup(db.Continue)
			for range 10 {
				began := time.Now()
				Expect(c.askWithin(20 * time.Millisecond)).To(Equal(timedOut))
				Expect(time.Since(began)).To(BeNumerically("<", time.Second))
			}
			Expect(t.dials.Load()).To(BeEquivalentTo(2))
			db.Continue()
			Expect(c.ask()).To(Equal(healthy))
			Expect(t.dials.Load()).To(BeEquivalentTo(2))
			Expect(db.status("Aborted_connects")).To(Equal(aborted), "a handshake was broken off")
		})

		It("uses a connection that was made in the moment that its probe ended", func() {
			t := aim(db.Addr())
			aborted := db.status("Aborted_connects")
			ctx, end := context.WithCancel(context.Background())
			defer end()
			dial := t.Dial
			t.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := dial(ctx, network, address)
				end()
				// As package net does.
				if ctx.Err() != nil {
					conn.Close()
					return nil, ctx.Err()
				}
				return conn, err
			}
			c := build(probe(), t)
			Expect(c.Check(ctx).Verdict).To(Equal(check.Failed))
			Expect(c.ask()).To(Equal(healthy))
			Expect(t.dials.Load()).To(BeEquivalentTo(1))
			Expect(db.status("Aborted_connects")).To(Equal(aborted))
		})

		It("opens nothing for a probe that is over before it begins", func() {
			t := aim(db.Addr())
			Expect(build(probe(), t).askWithin(0)).To(Equal(timedOut))
			Expect(t.dials.Load()).To(BeZero())
		})

		It("breaks off a pending log-in when it is closed", func() {
			c := build(probe(), aim(db.Addr()))
			db.Pause()
			DeferCleanup(db.Continue)
			Expect(c.askWithin(20 * time.Millisecond)).To(Equal(timedOut))
			began := time.Now()
			c.close()
			Expect(time.Since(began)).To(BeNumerically("<", time.Second))
		})
	})

	Context("with a real MariaDB that dies", func() {
		var db *server

		BeforeEach(func() {
			spec.Need("mariadbd", "mariadb-server")
			spec.CheckLeaks()
			db = &server{MariaDB: servers.MariaDB{Dir: GinkgoT().TempDir(), Init: users(), Config: []string{"skip_ssl"}}}
			db.start()
		})

		It("hints at a crash within milliseconds, takes the refused connect for a word, and sees the restart", func() {
			t := aim(db.Addr())
			c := build(probe(), t)
			Expect(c.ask()).To(Equal(healthy))
			db.kill()
			Eventually(t.hints).WithTimeout(time.Second).Should(Receive(ContainSubstring("kept connection")))
			Expect(c.ask()).To(Equal(refused))
			db.start()
			Expect(c.ask()).To(Equal(healthy))
		})

		It("gives up a pending log-in of a server that has died, and says what is now", func() {
			t := aim(db.Addr())
			c := build(probe(), t)
			db.Pause()
			DeferCleanup(db.Continue)
			Expect(c.askWithin(20 * time.Millisecond)).To(Equal(timedOut))
			db.kill()
			Expect(c.ask()).To(Equal(refused))
			db.start()
			Expect(c.ask()).To(Equal(healthy))
		})
	})

	Context("with TLS at a real MariaDB (M18)", Ordered, func() {
		var (
			ca *authority
			db *server
		)

		BeforeAll(func() {
			spec.Need("mariadbd", "mariadb-server")
			ca = newAuthority()
			cert, key := ca.issue("db.example", time.Now().Add(time.Hour))
			db = &server{MariaDB: servers.MariaDB{
				Init: append(users(), "ALTER USER probe@'%' REQUIRE SSL"), TLSCert: cert, TLSKey: key,
			}}
			db.start()
		})

		BeforeEach(spec.CheckLeaks)

		secure := func(name, file string) check.Spec {
			with := probe()
			with.TLS = check.TLS{Enabled: true, CA: file, ServerName: name}
			return with
		}

		It("logs in to the server that is named, over TLS, and hints when it is cut off", func() {
			t := aim(db.Addr())
			c := build(secure("db.example", ca.file), t)
			for range 3 {
				Expect(c.ask()).To(Equal(healthy))
			}
			Expect(t.dials.Load()).To(BeEquivalentTo(1))
			Expect(t.hints).To(BeEmpty())
			db.query("KILL USER probe")
			Eventually(t.hints).Should(Receive())
			Expect(c.ask()).To(Equal(healthy))
		})

		It("does without TLS what the server does not let it", func() {
			Expect(build(probe(), aim(db.Addr())).ask().Detail).To(HavePrefix("it refuses the username or password"))
		})

		It("refuses another name, and does not try again with each probe", func() {
			t := aim(db.Addr())
			c := build(secure("other.example", ca.file), t)
			aborted := db.status("Aborted_connects")
			for range 5 {
				result := c.ask()
				Expect(result.Verdict).To(Equal(check.Failed))
				Expect(result.Detail).To(ContainSubstring("certificate is valid for db.example, not other.example"))
			}
			Expect(t.dials.Load()).To(BeEquivalentTo(1))
			Expect(db.status("Aborted_connects")).To(BeNumerically("<=", aborted+1))
		})

		It("takes the address for the name if there is none", func() {
			Expect(build(secure("", ca.file), aim(db.Addr())).ask().Detail).To(ContainSubstring("127.0.0.1"))
		})

		It("refuses a certificate of another authority", func() {
			Expect(build(secure("db.example", newAuthority().file), aim(db.Addr())).ask().Detail).To(ContainSubstring("unknown authority"))
		})

		It("refuses a certificate that has expired", func() {
			cert, key := ca.issue("old.example", time.Now().Add(-time.Minute))
			old := &server{MariaDB: servers.MariaDB{Init: users(), TLSCert: cert, TLSKey: key}}
			old.start()
			Expect(build(secure("old.example", ca.file), aim(old.Addr())).ask().Detail).To(ContainSubstring("expired"))
		})

		It("refuses a CA file that it cannot use", func() {
			_, err := mysql.New(secure("db.example", filepath.Join(ca.dir, "none.pem")), aim(db.Addr()).Target)
			Expect(err).To(MatchError(ContainSubstring("mysql check: reading the CA: ")))
			_, err = mysql.New(secure("db.example", ca.write("key.pem", "PRIVATE KEY", []byte("x"))), aim(db.Addr()).Target)
			Expect(err).To(MatchError(ContainSubstring("has no PEM certificate")))
		})
	})

	// Here the server keeps count of this address, as it does not of 127.0.0.1.
	Context("with a real MariaDB that blocks after 5 broken connects", Ordered, func() {
		var (
			ca *authority
			db *server
		)

		// aimFrom dials from an address that the server counts.
		aimFrom := func() *target {
			t := aim(db.Addr())
			t.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				t.dials.Add(1)
				return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext(ctx, network, address)
			}
			return t
		}

		BeforeAll(func() {
			spec.Need("mariadbd", "mariadb-server")
			ca = newAuthority()
			cert, key := ca.issue("db.example", time.Now().Add(time.Hour))
			db = &server{MariaDB: servers.MariaDB{
				Init: users(), TLSCert: cert, TLSKey: key,
				Config: []string{"skip_name_resolve=OFF", "performance_schema=ON", "max_connect_errors=5"},
			}}
			db.start()
			Expect(build(probe(), aimFrom()).ask()).To(Equal(healthy))
			if db.query("SELECT host_validated FROM performance_schema.host_cache WHERE ip = '127.0.0.2'") != "YES" {
				Skip("the server cannot find out that 127.0.0.2 has no name, and so does not count")
			}
		})

		BeforeEach(spec.CheckLeaks)

		broken := func() string {
			GinkgoHelper()
			return db.query("SELECT sum_connect_errors FROM performance_schema.host_cache WHERE ip = '127.0.0.2'")
		}

		It("does not get blocked while the server hangs", func() {
			c := build(probe(), aimFrom())
			db.Pause()
			DeferCleanup(db.Continue)
			for range 20 {
				Expect(c.askWithin(10 * time.Millisecond)).To(Equal(timedOut))
			}
			db.Continue()
			Expect(c.ask()).To(Equal(healthy))
			Expect(broken()).To(Equal("0"))
		})

		It("does not get blocked for a wrong password", func() {
			with := probe()
			with.Password = "hunter2"
			c := build(with, aimFrom())
			for range 20 {
				Expect(c.ask().Detail).To(HavePrefix("it refuses the username or password"))
			}
			Expect(broken()).To(Equal("0"))
		})

		It("does not get blocked for a certificate that it does not trust", func() {
			with := probe()
			with.TLS = check.TLS{Enabled: true, CA: ca.file, ServerName: "other.example"}
			c := build(with, aimFrom())
			for range 20 {
				Expect(c.ask().Detail).To(ContainSubstring("not other.example"))
			}
			Expect(broken()).To(Equal("1"))
		})

		It("says what to do when it is blocked, as bare connects bring about", func() {
			t := aimFrom()
			for range 10 {
				conn, err := t.Dial(context.Background(), "tcp", db.Addr())
				Expect(err).NotTo(HaveOccurred())
				conn.Close()
			}
			c := build(probe(), t)
			Eventually(c.ask).Should(Equal(check.Result{
				Verdict: check.Failed, Detail: "it has blocked this address for broken connects: run FLUSH HOSTS there and look for who breaks them off",
			}))
			db.query("FLUSH HOSTS")
			Eventually(c.ask).Should(Equal(healthy))
		})
	})

	DescribeTable("fails on what is no MySQL server, and leaves nothing behind",
		func(greeting, detail string) {
			spec.CheckLeaks()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			Expect(err).NotTo(HaveOccurred())
			done := make(chan struct{})
			go func() {
				defer close(done)
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				if _, err := io.WriteString(conn, greeting); err != nil {
					return
				}
				_ = conn.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, conn)
			}()
			DeferCleanup(func() {
				Expect(listener.Close()).To(Succeed())
				Eventually(done).Should(BeClosed())
			})
			c := build(probe(), aim(listener.Addr().String()))
			result := c.ask()
			Expect(result.Verdict).To(Equal(check.Failed))
			Expect(result.Detail).To(ContainSubstring(detail))
			c.close()
		},
		Entry("one that says nothing", "", "the connection ended before the answer did"),
		Entry("one that stops in the middle", "\x4a\x00\x00\x00\x0a10.11", "the connection ended before the answer did"),
		Entry("one that speaks SSH", "SSH-2.0-OpenSSH_9.2\r\n", "not what a MySQL server says"),
		Entry("one that promises more than is read", "\xff\xff\xff\x00"+strings.Repeat("x", 70000), "not what a MySQL server says"),
		Entry("an older protocol", "\x05\x00\x00\x00\x09aaa\x00", "unsupported protocol version 9"),
		Entry("an empty packet", "\x00\x00\x00\x00", "not what a MySQL server says"),
		Entry("a packet that is too short", "\x02\x00\x00\x00\x0a\x00", "not what a MySQL server says"),
		Entry("an error that is too short", "\x01\x00\x00\x00\xff", "not what a MySQL server says"),
		Entry("an error of the server's", "\x0b\x00\x00\x00\xff\x10\x04#08004no", "it has no connection left"),
	)

	It("ends a dial soon after its probe", func() {
		t := aim("127.0.0.1:1")
		ended := make(chan error, 1)
		t.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return nil, ctx.Err()
		}
		Expect(build(probe(), t).askWithin(20 * time.Millisecond)).To(Equal(timedOut))
		Eventually(ended).WithTimeout(5 * time.Second).Should(Receive(MatchError(context.DeadlineExceeded)))
	})

	It("refuses a spec that cannot work", func() {
		_, err := mysql.New(check.Spec{}, aim("127.0.0.1:1").Target)
		Expect(err).To(MatchError("mysql check: the username is missing: a MySQL server lets nobody in without"))
		_, err = mysql.New(probe(), check.Target{})
		Expect(err).To(MatchError("mysql check: the target has no address"))
		_, err = mysql.New(probe(), check.Target{Address: "127.0.0.1:1"})
		Expect(err).To(MatchError("mysql check: the target has no way to dial"))
	})
})
