package store_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/redis/go-redis/v9"

	"switchboard/pacemaker/store"
)

var _ = Describe("Redis", func() {
	open := func(c store.Redis) redis.UniversalClient {
		GinkgoHelper()
		client, err := c.Connect()
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(client.Close)
		return client
	}

	DescribeTable("reads a URL of one server",
		func(url, network, addr string, db int, user, password string, tls bool) {
			o := open(store.Redis{URL: url}).(*redis.Client).Options()
			Expect([]any{o.Network, o.Addr, o.DB, o.Username, o.Password, o.TLSConfig != nil}).To(
				Equal([]any{network, addr, db, user, password, tls}))
			Expect(o.DialTimeout).To(Equal(store.DefaultTimeout))
			Expect(o.ReadTimeout).To(Equal(store.DefaultTimeout))
			Expect(o.ContextTimeoutEnabled).To(BeTrue())
			Expect(o.MaxRetries).To(BeZero())
			Expect(o.DialerRetries).To(Equal(1))
		},
		Entry("a host", "redis://cache", "tcp", "cache:6379", 0, "", "", false),
		Entry("all of it", "redis://us%40er:p%2Fw%3A@10.0.0.1:7000/3", "tcp", "10.0.0.1:7000", 3, "us@er", "p/w:", false),
		Entry("a password alone", "redis://:pw@cache:1", "tcp", "cache:1", 0, "", "pw", false),
		Entry("IPv6", "redis://[::1]:7000", "tcp", "[::1]:7000", 0, "", "", false),
		Entry("IPv6 without a port", "redis://[::1]", "tcp", "[::1]:6379", 0, "", "", false),
		Entry("TLS", "rediss://cache", "tcp", "cache:6379", 0, "", "", true),
		Entry("a socket", "unix:///run/redis.sock", "unix", "/run/redis.sock", 0, "", "", false),
		Entry("a socket and a database", "unix://u:p@/run/redis.sock?db=4", "unix", "/run/redis.sock", 4, "u", "p", false),
	)

	It("reads a URL of Sentinels and one of a Cluster", func() {
		failover := open(store.Redis{URL: "redis-sentinel://:pw@s1,s2:7000/cache/2"})
		Expect(failover).To(BeAssignableToTypeOf(&redis.Client{}))
		o := failover.(*redis.Client).Options()
		Expect([]any{o.Addr, o.DB, o.Password}).To(Equal([]any{"FailoverClient", 2, "pw"}))
		cluster := open(store.Redis{URL: "rediss-cluster://c1:7000,c2", Timeout: 3 * time.Second})
		co := cluster.(*redis.ClusterClient).Options()
		Expect(co.Addrs).To(Equal([]string{"c1:7000", "c2:6379"}))
		Expect(co.TLSConfig).NotTo(BeNil())
		Expect(co.ReadTimeout).To(Equal(3 * time.Second))
		Expect(co.ContextTimeoutEnabled).To(BeTrue())
	})

	DescribeTable("refuses a URL that makes no sense, and shows nothing of it",
		func(url, words string) {
			err := store.Redis{URL: url}.Validate()
			Expect(err).To(MatchError(ContainSubstring(words)))
			Expect(err.Error()).NotTo(ContainSubstring("s3cret"))
		},
		Entry("none", "", "begins with redis://"),
		Entry("no scheme", ":s3cret@cache", "begins with redis://"),
		Entry("another scheme", "http://:s3cret@cache", "is no scheme of Redis"),
		Entry("TLS to a socket", "unixs:///run/x", "is no scheme of Redis"),
		Entry("a password that is not encoded", "redis://:s3cret%zz@cache", "not in percent-encoding"),
		Entry("a port", "redis://:s3cret@cache:x", "HOST or HOST:PORT"),
		Entry("no host", "redis://:s3cret@", "HOST or HOST:PORT"),
		Entry("a database", "redis://:s3cret@cache/x", "a number from 0"),
		Entry("a query", "redis://:s3cret@cache?db=1", "takes nothing after a question mark"),
		Entry("two servers", "redis://a,b", "has one address"),
		Entry("Sentinels without a master", "redis-sentinel://a,b", "needs the name of the master"),
		Entry("a database of a Cluster", "redis-cluster://a,b/1", "has no databases"),
		Entry("a socket without a path", "unix://run/redis.sock", "needs the whole path"),
		Entry("a socket with a query", "unix:///run/redis.sock?x=s3cret", "takes db=NUMBER"),
	)

	It("knows the prefix that a configuration means", func() {
		Expect([]string{store.Prefix(""), store.Prefix("a:"), store.Prefix(store.NoPrefix)}).To(Equal([]string{"switchboard:", "a:", ""}))
		Expect(store.Redis{URL: "redis://cache"}.CheckPrefix(store.NoPrefix)).To(Succeed())
		Expect(store.Redis{URL: "redis-cluster://cache"}.CheckPrefix(store.NoPrefix)).NotTo(Succeed())
	})

	It("shows no password, however it is printed", func() {
		c := store.Redis{URL: "redis://user:s3cret@cache:7000/1", Password: "s3cret", SentinelPassword: "s3cret"}
		var log bytes.Buffer
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "redis", c)
		for _, shown := range []string{c.String(), fmt.Sprint(c), fmt.Sprintf("%+v %#v %q", c, c, c), log.String()} {
			Expect(shown).To(ContainSubstring("cache:7000/1"))
			Expect(shown).NotTo(ContainSubstring("s3cret"))
		}
	})
})
