package postgres_test

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
	"switchboard/monitor/check"
	"switchboard/monitor/check/postgres"
)

var _ check.Builder = postgres.New

var (
	isPrimary   = check.Result{Verdict: check.Healthy, Detail: "is a primary"}
	noStandby   = check.Result{Verdict: check.Unhealthy, Detail: "is a primary"}
	isStandby   = check.Result{Verdict: check.Healthy, Detail: "is a standby"}
	noPrimary   = check.Result{Verdict: check.Unhealthy, Detail: "is a standby"}
	refused     = check.Result{Verdict: check.Unhealthy, Detail: "connection refused"}
	timedOut    = check.Result{Verdict: check.Failed, Detail: "timed out"}
	probe       = check.Spec{Username: "probe", Password: "secret"}
	anybody     = check.Spec{Username: "postgres"}
	connections = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'switchboard'"
)

var _ = Describe("the postgres check", func() {
	BeforeEach(spec.CheckLeaks)

	Context("with a real primary", func() {
		BeforeEach(needShared)

		It("takes it for healthy, and for unhealthy where a standby is wanted", func() {
			Expect(ask(build(probe, aim(shared.Addr())))).To(Equal(isPrimary))
			standby := probe
			standby.Standby = true
			Expect(ask(build(standby, aim(shared.Addr())))).To(Equal(noStandby))
		})

		It("logs in to the database postgres, and Close ends the connection", func() {
			checker, err := postgres.New(probe, aim(shared.Addr()))
			Expect(err).NotTo(HaveOccurred())
			Expect(ask(checker)).To(Equal(isPrimary))
			Expect(shared.Query("SELECT usename, datname FROM pg_stat_activity WHERE application_name = 'switchboard'")).To(Equal("probe|postgres"))
			Expect(checker.Close()).To(Succeed())
			Eventually(shared.Query).WithArguments(connections).WithTimeout(patient).Should(Equal("0"))
		})

		It("leaves no connection behind by probes that are refused or late (M17)", func() {
			before := spec.FDs()
			wrong := build(check.Spec{Username: "probe", Password: "hunter2"}, aim(shared.Addr()))
			late := build(probe, aim(shared.Addr()))
			for n := range 100 {
				Expect(ask(wrong).Verdict).To(Equal(check.Failed))
				askWithin(late, time.Duration(n)*50*time.Microsecond)
				Expect(late.Close()).To(Succeed())
			}
			Eventually(shared.Query).WithArguments(connections).WithTimeout(patient).Should(Equal("0"))
			Expect(spec.FDs()).To(BeNumerically("<=", before))
		})

		DescribeTable("logs in with a password",
			func(username string) {
				Expect(ask(build(check.Spec{Username: username, Password: "secret"}, aim(shared.Addr())))).To(Equal(isPrimary))
			},
			Entry("by SCRAM", "probe"),
			Entry("by MD5", "old"),
			Entry("in plain text", "plain"),
			Entry("that nobody asks for", "trusted"),
		)

		DescribeTable("says what to do, and never tells the password (M18)",
			func(spec check.Spec, detail ...string) {
				checker := build(spec, aim(shared.Addr()))
				for range 2 {
					result := ask(checker)
					Expect(result.Verdict).To(Equal(check.Failed))
					for _, words := range detail {
						Expect(result.Detail).To(ContainSubstring(words))
					}
					Expect(result.Detail).NotTo(ContainSubstring("hunter2"))
					Expect(result.Detail).NotTo(ContainSubstring("secret"))
				}
			},
			Entry("a wrong password", check.Spec{Username: "probe", Password: "hunter2"}, "it refuses the username or password: correct the check's username and password_file"),
			Entry("a wrong one by MD5", check.Spec{Username: "old", Password: "hunter2"}, "it refuses the username or password"),
			Entry("no password", check.Spec{Username: "probe"}, "it wants a password: set the check's password_file"),
			Entry("nobody of that name", check.Spec{Username: "nobody"}, "it refuses the log-in: correct the check's username", `role "nobody" does not exist`),
			Entry("no line for the user", check.Spec{Username: "stranger", Password: "hunter2"}, "pg_hba.conf", "no encryption"),
			Entry("TLS is wanted", check.Spec{Username: "secure", Password: "hunter2"}, "or tls", "no encryption"),
			Entry("no database", check.Spec{Username: "trusted", Database: "nowhere"}, "correct the check's database", `"nowhere" does not exist`),
			Entry("a database that is closed", check.Spec{Username: "outsider", Database: "closed"}, "grant it CONNECT on the database", `permission denied for database "closed"`),
			Entry("no connection left", check.Spec{Username: "limited"}, "raise max_connections or the role's limit", "too many connections"),
		)

		It("takes a connection that the server ends for a hint, not for a verdict", func() {
			target, hints := hinting(shared.Addr())
			checker := build(probe, target)
			Expect(ask(checker)).To(Equal(isPrimary))
			Consistently(hints).WithTimeout(50 * time.Millisecond).ShouldNot(Receive())
			Expect(shared.Query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'switchboard'")).To(Equal("t"))
			Eventually(hints).WithTimeout(patient).Should(Receive())
			Expect(ask(checker)).To(Equal(isPrimary))
			Expect(shared.Query(connections)).To(Equal("1"))
		})

		It("takes nothing from the environment or the home directory", func() {
			home := GinkgoT().TempDir()
			Expect(os.WriteFile(filepath.Join(home, ".pgpass"), []byte("*:*:*:*:hunter2\n"), 0o600)).To(Succeed())
			Expect(os.WriteFile(filepath.Join(home, ".pg_service.conf"), []byte("[spec]\nhost=127.0.0.1\nport=1\nuser=service\ndbname=service\noptions=-c geqo=off\n"), 0o600)).To(Succeed())
			Expect(os.Mkdir(filepath.Join(home, ".postgresql"), 0o700)).To(Succeed())
			for _, name := range []string{"postgresql.crt", "postgresql.key", "root.crt"} {
				Expect(os.WriteFile(filepath.Join(home, ".postgresql", name), []byte("no PEM"), 0o600)).To(Succeed())
			}
			environment := map[string]string{
				"HOME": home, "PGHOST": "192.0.2.1", "PGPORT": "none", "PGDATABASE": "nowhere", "PGUSER": "nobody", "PGPASSWORD": "hunter2",
				"PGPASSFILE": home + "/.pgpass", "PGAPPNAME": "spec", "PGCONNECT_TIMEOUT": "none", "PGSSLMODE": "verify-full",
				"PGSSLKEY": "/none", "PGSSLCERT": "/none", "PGSSLCERTMODE": "require", "PGSSLSNI": "0", "PGSSLROOTCERT": "/none", "PGSSLPASSWORD": "none",
				"PGSSLNEGOTIATION": "direct", "PGTARGETSESSIONATTRS": "standby", "PGTZ": "nowhere", "PGOPTIONS": "-c no_such=1",
				"PGMINPROTOCOLVERSION": "3.2", "PGMAXPROTOCOLVERSION": "none", "PGCHANNELBINDING": "require", "PGREQUIREAUTH": "oauth",
			}
			for name, value := range environment {
				GinkgoT().Setenv(name, value)
			}
			Expect(ask(build(probe, aim(shared.Addr())))).To(Equal(isPrimary))
			Expect(ask(build(check.Spec{Username: "probe"}, aim(shared.Addr()))).Detail).To(HavePrefix("it wants a password"))
			for _, service := range []string{"spec", "no-such-service"} {
				GinkgoT().Setenv("PGSERVICE", service)
				GinkgoT().Setenv("PGSERVICEFILE", home+"/.pg_service.conf")
				Expect(ask(build(probe, aim(shared.Addr())))).To(Equal(isPrimary))
			}
			GinkgoT().Setenv("PGSERVICEFILE", "/none")
			Expect(ask(build(probe, aim(shared.Addr())))).To(Equal(isPrimary))
		})
	})

	Context("with TLS", func() {
		secure := func(tls check.TLS) check.Spec {
			tls.Enabled = true
			return check.Spec{Username: "secure", Password: "secret", TLS: tls}
		}

		It("verifies the authority and the name, and is watched too", func() {
			needShared()
			target, hints := hinting(shared.Addr())
			target2, dials := counting(shared.Addr())
			target.Dial = target2.Dial
			checker := build(secure(check.TLS{CA: pki.ca, ServerName: "db.example"}), target)
			for range 100 {
				Expect(ask(checker)).To(Equal(isPrimary))
			}
			Expect(dials.Load()).To(BeEquivalentTo(1))
			Expect(shared.Query("SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'switchboard'")).To(Equal("t"))
			Consistently(hints).WithTimeout(50 * time.Millisecond).ShouldNot(Receive())
			Expect(shared.Query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'switchboard'")).To(Equal("t"))
			Eventually(hints).WithTimeout(patient).Should(Receive())
		})

		It("follows the CA file", func() {
			needShared()
			file := filepath.Join(GinkgoT().TempDir(), "ca.pem")
			move := func(from string) {
				text, err := os.ReadFile(from)
				Expect(err).NotTo(HaveOccurred())
				Expect(os.WriteFile(file, text, 0o600)).To(Succeed())
			}
			move(newAuthority().ca)
			checker := build(secure(check.TLS{CA: file, ServerName: "db.example"}), aim(shared.Addr()))
			Expect(ask(checker)).To(Equal(check.Result{Verdict: check.Failed, Detail: "its certificate is not from the authority in the check's tls.ca"}))
			move(pki.ca)
			Expect(ask(checker)).To(Equal(isPrimary))
		})

		DescribeTable("fails a certificate that is not good, and never goes on in plain text (M18)",
			func(name string, left time.Duration, tls func() check.TLS, detail string) {
				cert, key := pki.issue(name, left)
				address, taken := fakePostgres(talkingTLS(cert, key))
				result := ask(build(secure(tls()), aim(address)))
				Expect(result.Verdict).To(Equal(check.Failed))
				Expect(result.Detail).To(MatchRegexp(detail))
				Expect(taken.Load()).To(BeEquivalentTo(1))
			},
			Entry("expired", "db.example", -time.Hour, func() check.TLS { return check.TLS{CA: pki.ca, ServerName: "db.example"} }, `^its certificate is valid from \S+Z to \S+Z: renew it`),
			Entry("of another name", "other.example", time.Hour, func() check.TLS { return check.TLS{CA: pki.ca, ServerName: "db.example"} }, `another name: set the check's tls\.server_name: .*other\.example, not db\.example`),
			Entry("not of the address", "db.example", time.Hour, func() check.TLS { return check.TLS{CA: pki.ca} }, `another name: .*127\.0\.0\.1`),
			Entry("of an unknown authority", "db.example", time.Hour, func() check.TLS { return check.TLS{ServerName: "db.example"} }, `not from an authority that this system knows`),
		)

		It("goes on when the certificate is good", func() {
			cert, key := pki.issue("db.example", time.Hour)
			address, _ := fakePostgres(talkingTLS(cert, key))
			Expect(ask(build(secure(check.TLS{CA: pki.ca, ServerName: "db.example"}), aim(address))).Detail).To(Equal("the TLS was fine"))
		})

		It("fails a server that does not talk TLS", func() {
			address, taken := fakePostgres(refusingWith("N"))
			Expect(ask(build(secure(check.TLS{CA: pki.ca, ServerName: "db.example"}), aim(address)))).To(Equal(check.Result{
				Verdict: check.Failed, Detail: "it does not talk TLS: turn ssl on at the server, or the check's tls off",
			}))
			Expect(taken.Load()).To(BeEquivalentTo(1))
		})

		It("is over at the deadline when the handshake hangs", func() {
			address, _ := fakePostgres(func(conn net.Conn) {
				if readStart(conn) {
					_, _ = io.WriteString(conn, "S")
					_, _ = io.Copy(io.Discard, conn)
				}
			})
			began := time.Now()
			Expect(askWithin(build(secure(check.TLS{CA: pki.ca}), aim(address)), 50*time.Millisecond)).To(Equal(timedOut))
			Expect(time.Since(began)).To(BeNumerically("<", time.Second))
		})
	})

	Context("with real servers that change", func() {
		BeforeEach(needShared)

		It("sees a promotion at the next probe, on both sides", func() {
			primary := new(servers.Postgres)
			start(primary)
			standby := &servers.Postgres{StandbyOf: primary.Addr()}
			start(standby)
			reader := anybody
			reader.Standby = true
			writes, reads := build(anybody, aim(standby.Addr())), build(reader, aim(standby.Addr()))
			Expect(ask(build(anybody, aim(primary.Addr())))).To(Equal(isPrimary))
			Expect(ask(writes)).To(Equal(noPrimary))
			Expect(ask(reads)).To(Equal(isStandby))
			Expect(standby.Promote()).To(Succeed())
			Expect(ask(writes)).To(Equal(isPrimary))
			Expect(ask(reads)).To(Equal(noStandby))
		})

		It("hints at a crash at once, judges it by the refusal, and finds the server again", func() {
			server := &servers.Postgres{Dir: reachableDir()}
			ended := start(server)
			target, hints := hinting(server.Addr())
			checker := build(anybody, target)
			Expect(ask(checker)).To(Equal(isPrimary))
			server.Kill()
			Eventually(hints).WithTimeout(patient).Should(Receive(ContainSubstring("the kept connection")))
			Eventually(ended).WithTimeout(patient).Should(Receive(HaveOccurred()))
			Expect(ask(checker)).To(Equal(refused))
			start(server)
			Expect(ask(checker)).To(Equal(isPrimary))
			Expect(server.Query(connections)).To(Equal("1"))
		})

		It("is over at the deadline when the server is frozen, and leaves it one connection when it thaws", func() {
			server := new(servers.Postgres)
			start(server)
			checker := build(anybody, aim(server.Addr()))
			Expect(ask(checker)).To(Equal(isPrimary))
			server.Pause()
			// The first finds the kept connection silent, the others get none.
			for range 3 {
				began := time.Now()
				Expect(askWithin(checker, 100*time.Millisecond)).To(Equal(timedOut))
				Expect(time.Since(began)).To(BeNumerically("<", time.Second))
			}
			server.Continue()
			Expect(ask(checker)).To(Equal(isPrimary))
			Eventually(server.Query).WithArguments(connections).WithTimeout(patient).Should(Equal("1"))
		})
	})

	Context("with a scripted server", func() {
		DescribeTable("what it says is worth",
			func(talk func(net.Conn), want check.Result) {
				address, _ := fakePostgres(talk)
				checker := build(anybody, aim(address))
				for range 2 {
					Expect(ask(checker)).To(Equal(want))
				}
			},
			Entry("starting", refusingWith(fatal("57P03", "the database system is starting up")), check.Result{Verdict: check.Unhealthy, Detail: "the database system is starting up"}),
			Entry("a primary", answering(row("f")), isPrimary),
			Entry("a standby", answering(row("t")), noPrimary),
			Entry("no boolean", answering(row("m\x1bybe")), check.Result{Verdict: check.Failed, Detail: "the answer to pg_is_in_recovery() is no boolean: m?ybe"}),
			Entry("no row", answering(message('C', "SELECT 0\x00")+message('Z', "I")), check.Result{Verdict: check.Failed, Detail: "the answer to pg_is_in_recovery() is no boolean:"}),
			Entry("another refusal", refusingWith(fatal("XX000", "could not\nread")), check.Result{Verdict: check.Failed, Detail: "answered XX000 could not"}),
			Entry("the end", refusingWith(""), check.Result{Verdict: check.Failed, Detail: "it closed the connection"}),
		)

		It("reads no more than it needs (M2)", func() {
			endless := func(beginning string, again string) func(net.Conn) {
				return func(conn net.Conn) {
					if !readStart(conn) {
						return
					}
					_, err := io.WriteString(conn, beginning)
					for again := strings.Repeat(again, 1000); err == nil; {
						_, err = io.WriteString(conn, again)
					}
				}
			}
			for _, talk := range []func(net.Conn){
				endless("", message('S', "a\x00b\x00")),
				endless(ready, message('D', "\x00\x01\x00\x00\x00\x01f")),
			} {
				address, _ := fakePostgres(talk)
				result := ask(build(anybody, aim(address)))
				Expect(result.Verdict).To(Equal(check.Failed))
				Expect(result.Detail).To(ContainSubstring("says more than 65536 bytes"))
			}
			By("a message that says it is long")
			address, _ := fakePostgres(refusingWith("R\x7f\xff\xff\xff"))
			Expect(ask(build(anybody, aim(address))).Verdict).To(Equal(check.Failed))
		})

		It("fails on an answer that is no PostgreSQL", func() {
			address, _ := fakePostgres(refusingWith("HTTP/1.1 400 Bad Request\r\n\r\n"))
			Expect(ask(build(anybody, aim(address))).Verdict).To(Equal(check.Failed))
		})

		It("cancels nothing when an answer is late, and does not read it later", func() {
			address, taken := fakePostgres(func(conn net.Conn) {
				if readStart(conn) {
					_, _ = io.WriteString(conn, ready)
					_, _ = io.Copy(io.Discard, conn)
				}
			})
			checker := build(anybody, aim(address))
			for probes := range 3 {
				began := time.Now()
				Expect(askWithin(checker, 50*time.Millisecond)).To(Equal(timedOut))
				Expect(time.Since(began)).To(BeNumerically("<", time.Second))
				Expect(taken.Load()).To(BeEquivalentTo(probes+1), "one connection a probe")
			}
			Consistently(taken.Load).WithTimeout(50 * time.Millisecond).Should(BeEquivalentTo(3))
		})

		It("probes on a new connection when the kept one drops in the middle", func() {
			address, taken := fakePostgres(func(conn net.Conn) {
				if !readStart(conn) {
					return
				}
				_, _ = io.WriteString(conn, ready)
				if readMessage(conn) == 'Q' {
					_, _ = io.WriteString(conn, row("f"))
				}
				readMessage(conn)
			})
			checker := build(anybody, aim(address))
			for probes := range 3 {
				Expect(ask(checker)).To(Equal(isPrimary))
				Expect(taken.Load()).To(BeEquivalentTo(probes + 1))
			}
		})

		It("says goodbye", func() {
			last := make(chan byte, 1)
			address, _ := fakePostgres(func(conn net.Conn) {
				if !readStart(conn) {
					return
				}
				_, _ = io.WriteString(conn, ready)
				for {
					kind := readMessage(conn)
					if kind != 'Q' {
						last <- kind
						return
					}
					_, _ = io.WriteString(conn, row("f"))
				}
			})
			checker, err := postgres.New(anybody, aim(address))
			Expect(err).NotTo(HaveOccurred())
			Expect(ask(checker)).To(Equal(isPrimary))
			Expect(checker.Close()).To(Succeed())
			Eventually(last).Should(Receive(BeEquivalentTo('X')))
		})
	})

	It("takes a refused connect for a word on the backend's own port only", func() {
		target := aim(spec.RefusedAddr())
		Expect(ask(build(anybody, target))).To(Equal(refused))
		target.Own = false
		Expect(ask(build(anybody, target))).To(Equal(check.Result{Verdict: check.Failed, Detail: "connection refused"}))
	})

	It("says which name was not found, without looking it up itself (M11)", func() {
		target := aim("db-0.invalid:5432")
		target.Dial = func(_ context.Context, network, address string) (net.Conn, error) {
			Expect(network + " " + address).To(Equal("tcp db-0.invalid:5432"))
			return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "db-0.invalid", IsNotFound: true}}
		}
		Expect(ask(build(anybody, target))).To(Equal(check.Result{Verdict: check.Failed, Detail: "looking up db-0.invalid: no such host"}))
	})

	It("ends a dial with its probe", func() {
		target := aim("127.0.0.1:1")
		target.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		Expect(askWithin(build(anybody, target), 50*time.Millisecond)).To(Equal(timedOut))
	})

	It("refuses a spec that cannot work", func() {
		_, err := postgres.New(check.Spec{}, aim("127.0.0.1:1"))
		Expect(err).To(MatchError("postgres check: the username is missing: set whom to log in as"))
		_, err = postgres.New(anybody, check.Target{})
		Expect(err).To(MatchError("postgres check: the target has no address"))
		_, err = postgres.New(anybody, check.Target{Address: "127.0.0.1:1"})
		Expect(err).To(MatchError("postgres check: the target has no way to dial"))
		_, err = postgres.New(check.Spec{Username: "probe", TLS: check.TLS{Enabled: true, CA: "/none"}}, aim("127.0.0.1:1"))
		Expect(err).To(MatchError(ContainSubstring("reading the CA")))
	})
})
