package main_test

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/fixtures/servers"
	"switchboard/fixtures/spec"
)

// startRedis runs a real server until the spec ends or it is killed.
func startRedis(server *servers.Redis) *servers.Redis {
	GinkgoHelper()
	return spec.StartRedis(server).Redis
}

// redisClient connects to one address and hides nothing: one connection, no retry.
func redisClient(addr string) *redis.Client {
	client := redis.NewClient(&redis.Options{
		Addr: addr, PoolSize: 1, MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true, DisableIdentity: true,
		DialTimeout: time.Second, ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second,
	})
	DeferCleanup(client.Close)
	return client
}

// do sends one command straight to a server.
func do(server *servers.Redis, args ...any) {
	GinkgoHelper()
	Expect(redisClient(server.Addr()).Do(context.Background(), args...).Err()).NotTo(HaveOccurred())
}

var _ = Describe("router in front of Redis", func() {
	BeforeEach(spec.CheckLeaks)

	It("cuts every client from a killed master and serves them from the promoted replica", func(ctx SpecContext) {
		spec.Need("redis-server", "redis-server")
		spec.Need("redis-benchmark", "redis-tools")
		master := startRedis(&servers.Redis{})
		replicas := []*servers.Redis{
			startRedis(&servers.Redis{ReplicaOf: master.Addr()}),
			startRedis(&servers.Redis{ReplicaOf: master.Addr()}),
		}
		r := startRouter(write("router.yaml", fmt.Sprintf(`
name: router-1
listeners: [{name: redis, bind: "127.0.0.1:0", host: cache}]
hosts:
  - name: cache
    check: {type: redis, interval: 100ms, timeout: 500ms}
    backends:
      - {name: redis-0, address: %q}
      - {name: redis-1, address: %q}
      - {name: redis-2, address: %q}
api: {bind: "127.0.0.1:0"}
shutdown: {drain: 0s}
`, master.Addr(), replicas[0].Addr(), replicas[1].Addr())))
		active := func() string {
			if a, ok := get(r.api + "/hosts/cache")["active"].(map[string]any); ok {
				return a["name"].(string)
			}
			return ""
		}
		Eventually(active).WithTimeout(within).Should(Equal("redis-0"))

		By("putting load on it")
		host, port, err := net.SplitHostPort(r.clients)
		Expect(err).NotTo(HaveOccurred())
		load := spec.StartProcess(exec.Command("redis-benchmark", "-h", host, "-p", port, "-c", "20", "-t", "set", "-n", "100000000", "-q"))
		client := redisClient(r.clients)
		Expect(client.Set(ctx, "before", "kept", 0).Err()).NotTo(HaveOccurred())
		Eventually(func() (int, error) { return client.Do(ctx, "WAIT", 2, 1000).Int() }).WithTimeout(within).Should(Equal(2), "the replicas have it")
		Eventually(func() int64 {
			total, err := redisClient(master.Addr()).Do(ctx, "DBSIZE").Int64()
			Expect(err).NotTo(HaveOccurred())
			return total
		}).WithTimeout(within).Should(BeNumerically(">=", 2), "redis-benchmark writes")

		sessions := func() any { return get(r.api + "/hosts/cache")["currentSessionCount"] }
		Eventually(sessions).WithTimeout(within).Should(BeNumerically(">=", 21))

		By("killing the master under that load")
		master.Kill()
		// redis-benchmark may end then, or go on without connections: what counts is
		// that it has none.
		Eventually(sessions).WithTimeout(within).Should(BeZero())
		Expect(client.Get(ctx, "before").Err()).To(HaveOccurred(), "so was the other client")
		Eventually(active).WithTimeout(within).Should(BeEmpty(), "a replica is no master")

		load.Kill()
		load.WaitExit(within)

		By("promoting a replica")
		newHost, newPort, err := net.SplitHostPort(replicas[0].Addr())
		Expect(err).NotTo(HaveOccurred())
		do(replicas[0], "REPLICAOF", "NO", "ONE")
		do(replicas[1], "REPLICAOF", newHost, newPort)
		Eventually(active).WithTimeout(within).Should(Equal("redis-1"))

		By("serving the next connection from it, and the same client")
		Expect(redisClient(r.clients).Get(ctx, "before").Val()).To(Equal("kept"))
		// A go-redis pool that could not dial answers with that error for up to a
		// second before it dials again.
		Eventually(func() (string, error) { return client.Get(ctx, "before").Result() }).WithTimeout(within).Should(Equal("kept"))
		Expect(client.Set(ctx, "after", "written", 0).Err()).NotTo(HaveOccurred())
		Expect(redisClient(replicas[0].Addr()).Get(ctx, "after").Val()).To(Equal("written"))
		Expect(client.ConfigGet(ctx, "port").Val()).To(HaveKeyWithValue("port", newPort))

		By("putting load on the new master")
		again := spec.StartProcess(exec.Command("redis-benchmark", "-h", host, "-p", port, "-c", "20", "-t", "set", "-n", "20000", "-q"))
		Expect(again.WaitExit(within)).To(BeZero())

		By("staying there when the old master is back, still believing in itself")
		old := startRedis(&servers.Redis{Port: portOf(master.Addr())})
		Eventually(func() bool {
			for _, b := range get(r.api + "/hosts/cache")["backends"].([]any) {
				if backend := b.(map[string]any); backend["name"] == "redis-0" {
					return backend["healthy"].(bool)
				}
			}
			return false
		}).WithTimeout(within).Should(BeTrue())
		Expect(client.Set(ctx, "later", "written", 0).Err()).NotTo(HaveOccurred())
		Expect(redisClient(old.Addr()).Exists(ctx, "later").Val()).To(BeZero())
		Expect(active()).To(Equal("redis-1"))
		history := get(r.api + "/hosts/cache")
		Expect(history["epoch"]).To(BeEquivalentTo(3), "redis-0, none, redis-1")
		Expect(strings.HasPrefix(history["reason"].(string), "recovered")).To(BeTrue(), history["reason"])
	})
})

func portOf(addr string) int {
	GinkgoHelper()
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	Expect(err).NotTo(HaveOccurred())
	return tcp.Port
}
