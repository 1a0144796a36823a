package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"switchboard/monitor/check"
	"switchboard/runner"
	"switchboard/runner/process"
)

// The ports of a dev cluster, where they are free. They lie below those that the
// system hands out, so nobody gets a dead backend's by chance.
const (
	devClients  = 7000
	devWeb      = 8080
	devAPI      = 9090
	devBackends = 7001 // and the next ones
	devHealth   = 7011 // and the next ones
	devApps     = 7021 // and the next ones
)

// devHost is the database of a dev cluster. devListener is its listener, and
// devWebListener that of the web apps.
const (
	devHost        = "db.demo"
	devListener    = "demo"
	devWebListener = "web"
)

// devApp is a web app of a dev cluster: a host with several instances. Browsers take
// what is under .localhost to this machine (RFC 6761, section 6.3).
type devApp struct {
	// host is the name in the configuration, asked one that stands for it.
	name, host, asked string
	// cookie is what visitors are known by, "" if each request may go anywhere.
	cookie    string
	instances []*devBackend
}

func newDevApps() []*devApp {
	return []*devApp{
		{name: "shop", host: "shop.localhost", asked: "shop.localhost"},
		{name: "pets", host: "*.pets.localhost", asked: "cats.pets.localhost", cookie: "visitor"},
	}
}

// A backend that was killed comes back after devRestart/2 to devRestart: late
// enough to see what happens without it.
const devRestart = 4 * time.Second

func (p *program) dev() *cobra.Command {
	d := &devCluster{}
	var dir string
	var port, webPort, apiPort int
	command := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole cluster on this machine, with things to try",
		Long: `Runs a router with a demo database of three backends, one of which is active, and
two web apps of three instances each, which are processes of their own. It says
what to try with them: connecting, switching traffic off, taking an instance out,
changing routes, killing one. What happens is shown as it happens. Who was killed
comes back after a few seconds. Ctrl-C ends it all.

The web apps are in a routing table, in a Redis that is started for it. Where there is
no redis-server, one in this process stands for it.

It listens on 127.0.0.1 only. A default port that is taken is replaced by a free
one.`,
		Example: "  switchboard dev\n  switchboard dev --dir /tmp/demo          switches, pins, epochs and routes are kept over restarts\n  switchboard dev --port 0 --web-port 0 --api-port 0    any free ports",
		Args:    noArguments(""),
		RunE: func(command *cobra.Command, _ []string) error {
			for _, number := range []int{port, webPort, apiPort} {
				if number < 0 || number > 65535 {
					return fmt.Errorf("%d is not a port: choose one from 1 to 65535, or 0 for any free one", number)
				}
			}
			executable, err := os.Executable()
			if err != nil {
				return err
			}
			d.story = newStory(p.out)
			d.clients = d.address("clients get", port, command.Flags().Changed("port"))
			d.web = d.address("the web apps get", webPort, command.Flags().Changed("web-port"))
			d.api = d.address("the API gets", apiPort, command.Flags().Changed("api-port"))
			if dir != "" {
				d.state = filepath.Join(dir, "router")
			}
			for i := range 3 {
				b := &devBackend{program: executable, name: "backend-" + strconv.Itoa(i), index: i, story: d.story}
				if port != 0 {
					b.addr, b.health = preferred(devBackends+i), preferred(devHealth+i)
				}
				d.backends = append(d.backends, b)
			}
			d.apps = newDevApps()
			for i, app := range d.apps {
				for j := range 3 {
					b := &devBackend{program: executable, name: app.name + "-" + strconv.Itoa(j), app: app, story: d.story}
					if webPort != 0 {
						b.addr = preferred(devApps + 3*i + j)
					}
					app.instances = append(app.instances, b)
				}
			}
			redis := dir
			if dir != "" {
				redis = filepath.Join(dir, "redis")
			}
			if d.table, err = newDevTable(d, redis); err != nil {
				return err
			}
			defer d.table.close()
			d.program = commandLine(executable)
			d.log = slog.New(slog.NewTextHandler(p.errs, &slog.HandlerOptions{Level: slog.LevelError}))
			if err := d.run(command.Context()); err != nil {
				fmt.Fprintln(p.errs, "switchboard dev:", err)
				return errFailed
			}
			return nil
		},
	}
	flags := command.Flags()
	flags.StringVar(&dir, "dir", "", "`directory` to keep state in; none: nothing is kept")
	flags.IntVar(&port, "port", devClients, "`port` that clients connect to; 0: any free one")
	flags.IntVar(&webPort, "web-port", devWeb, "`port` of the web apps; 0: any free one")
	flags.IntVar(&apiPort, "api-port", devAPI, "`port` of the API; 0: any free one")
	_ = command.MarkFlagDirname("dir")
	return command
}

// devCluster is three backends, two web apps and a router.
type devCluster struct {
	clients, web, api string
	// state is the router's directory, "" for none.
	state    string
	backends []*devBackend
	apps     []*devApp
	table    *devTable
	story    *story
	// program is what people type for this program.
	program string
	log     *slog.Logger
	// router is set before the cluster is ready.
	router *runner.Router
}

// address is where to listen. A port that nobody has asked for is given up if it
// is taken.
func (d *devCluster) address(who string, port int, wanted bool) string {
	if wanted {
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	if address := preferred(port); address != "" {
		return address
	}
	d.story.line("Port %d is taken; %s another one.", port, who)
	return "127.0.0.1:0"
}

// preferred is the address of a port, "" if the port is taken.
func preferred(port int) string {
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return ""
	}
	listener.Close()
	return address
}

// run runs the cluster until it is told to stop.
func (d *devCluster) run(ctx context.Context) error {
	members := []process.Member{d.table.member()}
	for _, b := range d.children() {
		members = append(members, process.Member{Name: b.name, Runner: process.Restart{
			Name: b.name, Min: devRestart, Max: devRestart, Runner: func() process.Runner { return b },
		}})
	}
	members = append(members,
		process.Member{Name: "table", Runner: webApps{d.table}},
		process.Member{Name: "router", Runner: routerOf{d}})

	signals, release := catch(ctx)
	defer release()
	telling, enough := context.WithCancel(context.Background())
	var teller sync.WaitGroup
	err := serve(signals, process.Ordered(members...), func() {
		d.introduce()
		teller.Go(func() { d.tell(telling) })
	})
	enough()
	teller.Wait()
	return err
}

// children are all processes of the cluster.
func (d *devCluster) children() []*devBackend {
	all := slices.Clone(d.backends)
	for _, app := range d.apps {
		all = append(all, app.instances...)
	}
	return all
}

// routerOf makes the cluster's router when the backends have their addresses, and
// runs it.
type routerOf struct{ *devCluster }

func (r routerOf) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	host := runner.Host{
		Name: devHost,
		Check: &check.Spec{
			Type: "http", Path: "/", Interval: 100 * time.Millisecond, Timeout: 500 * time.Millisecond,
		},
	}
	for _, b := range r.backends {
		health, err := net.ResolveTCPAddr("tcp", b.health)
		if err != nil {
			return err
		}
		host.Backends = append(host.Backends, runner.Backend{Name: b.name, Address: b.addr, CheckPort: health.Port})
	}
	router, err := runner.New(runner.Config{
		Name: "dev",
		Listeners: []runner.Listener{
			{Name: devListener, Bind: r.clients, Host: devHost},
			{Name: devWebListener, Bind: r.web, Protocol: runner.HTTP},
		},
		Hosts: []runner.Host{host},
		Table: r.table.follower.table(),
		State: r.state,
		API:   runner.API{Bind: r.api}, Metrics: build().metrics(r.log),
		Log: r.log,
	})
	if err != nil {
		return err
	}
	r.router = router
	r.table.follower.router.Store(router)
	return router.Run(signals, ready)
}

// introduce says what there is.
func (d *devCluster) introduce() {
	d.story.line("Switchboard is up: the host %s has three backends, one of which is active at a time;", devHost)
	d.story.line("the web apps %s and %s, of the routing table, have three instances each, all of which are used.\n", d.apps[0].host, d.apps[1].host)
	d.story.line("  clients    %s", d.router.Addr(devListener))
	for _, app := range d.apps {
		d.story.line("  web app    http://%s/", d.site(app))
	}
	d.story.line("  API        http://%s/cluster", d.router.APIAddr())
	d.story.line("  table      %s", d.table.where())
	for _, b := range d.children() {
		d.story.line("  %-9s  %s  pid %d", b.name, b.addr, b.pid.Load())
	}
	d.story.line("  state      %s\n", cmp.Or(d.state, "not kept; --dir DIR keeps it"))
}

// site is where a browser finds an app.
func (d *devCluster) site(app *devApp) string {
	_, port, _ := net.SplitHostPort(d.router.Addr(devWebListener).String())
	return net.JoinHostPort(app.asked, port)
}

// suggest says what can be done with it, when there is a first active backend.
func (d *devCluster) suggest(active string) {
	host, port, _ := net.SplitHostPort(d.router.Addr(devListener).String())
	patch := func(path, body string) string {
		return fmt.Sprintf(`curl -X PATCH -H 'Content-Type: application/json' -d '%s' http://%s%s`, body, d.router.APIAddr(), path)
	}
	const (
		off = `{"trafficEnabled":false,"message":"trying it"}`
		on  = `{"trafficEnabled":true,"message":"trying it"}`
	)
	pid := int64(0)
	for _, b := range d.backends {
		if b.name == active {
			pid = b.pid.Load()
		}
	}
	shop, pets := d.apps[0], d.apps[1]
	one := shop.instances[0]
	web := d.router.Addr(devWebListener)
	d.story.line(`
Things to try in another terminal. With the database:

  1. Connect. The active backend greets you and sends back what you type:
       nc %s %s
  2. Switch traffic off and on. Your connection is cut; new ones are cut until it is on again:
       %s
       %s
  3. Kill the active backend. Your connection is cut; the next one lands on another backend:
       kill -9 %d

With the web apps:

  4. Ask for one; any of its instances answers. In a browser: http://%s/
       curl -H 'Host: %s' http://%s/
  5. Ask for another as somebody; the same instance answers each time:
       curl -H 'Host: %s' -b %s=ann http://%s/
  6. Switch one host off and on. The other one goes on:
       %s
       %s
  7. Kill an instance while somebody asks. Nobody notices:
       while curl -sSf -H 'Host: %s' http://%s/; do sleep 0.1; done
       kill -9 %d

With the routing table:

  8. Add a host, and ask for it:
       export SWITCHBOARD_REDIS_URL=%s
       %s routes add blog.localhost %s --name blog-0
       curl -H 'Host: blog.localhost' http://%s/
  9. Take an instance out and back in. No request is lost:
       %s routes weight %s %s=0
       %s routes weight %s %s=1

Ctrl-C ends it all. This is what happens meanwhile:
`, host, port, patch("/traffic", off), patch("/traffic", on), pid,
		d.site(shop), shop.asked, web,
		pets.asked, pets.cookie, web,
		patch("/hosts/"+shop.host, off), patch("/hosts/"+shop.host, on),
		shop.asked, web, one.pid.Load(),
		d.table.redis().URL, d.program, one.addr, web,
		d.program, shop.host, one.name, d.program, shop.host, one.name)
}

// commandLine is what people type for this program: one that go run has built has no
// name of its own.
func commandLine(executable string) string {
	switch {
	case strings.Contains(executable, "/go-build"):
		return "go run ./cmd/switchboard"
	case strings.ContainsAny(executable, " '\"$\\"):
		return "'" + strings.ReplaceAll(executable, "'", `'\''`) + "'"
	default:
		return executable
	}
}
