package state_test

import (
	"bufio"
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gbytes"

	"switchboard/bridge"
	"switchboard/bridge/clock"
	"switchboard/runner/state"
)

var _ = Describe("Dir", func() {
	var dir string

	at := time.Date(2026, 11, 20, 12, 30, 0, 5, time.UTC)

	BeforeEach(func() { dir = filepath.Join(GinkgoT().TempDir(), "state") })

	mode := func(name string) os.FileMode {
		GinkgoHelper()
		info, err := os.Stat(filepath.Join(dir, name))
		Expect(err).NotTo(HaveOccurred())
		return info.Mode().Perm()
	}

	ready := func(hosts ...string) *state.Dir {
		GinkgoHelper()
		d := open(dir, state.Options{})
		_, err := d.Load(hosts)
		Expect(err).NotTo(HaveOccurred())
		return d
	}

	Describe("Open", func() {
		It("makes the directory for its owner only", func() {
			open(dir, state.Options{})
			Expect(mode("")).To(BeEquivalentTo(0o700))
			Expect(mode("lock")).To(BeEquivalentTo(0o600))
		})

		It("refuses a directory that is in use, until it is closed", func() {
			d := open(dir, state.Options{})
			_, err := state.Open(dir, state.Options{})
			Expect(err).To(MatchError("state directory " + dir + " is in use by another process"))
			Expect(d.Close()).To(Succeed())
			Expect(d.Close()).To(Succeed())
			open(dir, state.Options{})
		})

		It("refuses what is no directory", func() {
			Expect(os.WriteFile(dir, nil, 0o600)).To(Succeed())
			_, err := state.Open(dir, state.Options{})
			Expect(err).To(MatchError("creating state directory " + dir + ": not a directory"))
		})

		It("says so when it has no permission (L10)", func() {
			Expect(os.Chmod(filepath.Dir(dir), 0o711)).To(Succeed())
			Expect(os.Mkdir(dir, 0o500)).To(Succeed())
			err := asNobody(func() error {
				_, err := state.Open(dir, state.Options{})
				return err
			})
			Expect(err).To(MatchError(syscall.EACCES))
			Expect(err).To(MatchError("opening state directory " + dir + ": permission denied: the process must be able to write there"))
		})

		It("says so when it is read-only (L10)", func() {
			mount(dir)
			Expect(syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "")).To(Succeed())
			_, err := state.Open(dir, state.Options{})
			Expect(err).To(MatchError(syscall.EROFS))
			Expect(err).To(MatchError(ContainSubstring(dir + ": read-only file system")))
		})
	})

	Describe("saving and loading", func() {
		It("has nothing in a new directory", func() {
			saved, err := load(dir, "db")
			Expect(err).NotTo(HaveOccurred())
			Expect(saved.Router).To(BeNil())
			Expect(saved.Hosts).To(BeEmpty())
			Expect(saved.Pins).To(BeEmpty())
			Expect(saved.Weights).To(BeEmpty())
			Expect(saved.Active).To(Equal(map[string]state.Active{"db": {}}))
		})

		It("gives back what was saved, without a drain", func() {
			router := bridge.Traffic{Enabled: true, Message: "back again", LastUpdated: at}
			host := bridge.Traffic{Host: "db", Message: "upgrade \"8.4\"\n", LastUpdated: at}
			draining := host
			draining.DrainUntil = at.Add(time.Minute)
			d := ready("db")
			Expect(d.SaveTraffic(&router, map[string]bridge.Traffic{"db": draining})).To(Succeed())
			Expect(d.SavePins(map[string]string{"db": "db-1", "other": ""})).To(Succeed())
			Expect(d.SaveWeights(map[string]map[string]int{"*.shop": {"app-0": 0, "app-1": 3}, "other": {}})).To(Succeed())
			Expect(d.SaveActive(map[string]state.Active{"db": {Backend: "db-0", Epoch: 7}})).To(Succeed())
			Expect(d.Close()).To(Succeed())

			for _, name := range []string{"traffic.json", "pins.json", "weights.json", "active.json"} {
				Expect(mode(name)).To(BeEquivalentTo(0o600), name)
				Expect(get(dir, name)).To(ContainSubstring(`"version": 1`))
				Expect(filepath.Join(dir, name+".tmp")).NotTo(BeAnExistingFile())
			}
			saved, err := load(dir, "db")
			Expect(err).NotTo(HaveOccurred())
			Expect(saved.Router).To(HaveValue(Equal(router)))
			Expect(saved.Hosts).To(Equal(map[string]bridge.Traffic{"db": host}))
			Expect(saved.Pins).To(Equal(map[string]string{"db": "db-1"}))
			Expect(saved.Weights).To(Equal(map[string]map[string]int{"*.shop": {"app-0": 0, "app-1": 3}}))
			Expect(saved.Active["db"].Backend).To(Equal("db-0"))
		})

		It("replaces what was saved before", func() {
			d := ready()
			Expect(d.SaveTraffic(&bridge.Traffic{}, map[string]bridge.Traffic{"db": {}})).To(Succeed())
			Expect(d.SavePins(map[string]string{"db": "db-1"})).To(Succeed())
			Expect(d.SaveTraffic(nil, nil)).To(Succeed())
			Expect(d.SavePins(nil)).To(Succeed())
			Expect(d.SaveWeights(map[string]map[string]int{"shop": {"app-0": 2}})).To(Succeed())
			Expect(d.SaveWeights(map[string]map[string]int{"shop": {}})).To(Succeed())
			Expect(d.Close()).To(Succeed())
			saved, err := load(dir)
			Expect(err).NotTo(HaveOccurred())
			Expect(saved.Router).To(BeNil())
			Expect(saved.Hosts).To(BeEmpty())
			Expect(saved.Pins).To(BeEmpty())
			Expect(saved.Weights).To(BeEmpty())
		})

		It("writes only what is different, over a restart too", func() {
			inode := func() uint64 {
				GinkgoHelper()
				info, err := os.Stat(filepath.Join(dir, "pins.json"))
				Expect(err).NotTo(HaveOccurred())
				return info.Sys().(*syscall.Stat_t).Ino
			}
			pins := map[string]string{"db": "db-1", "web": "web-2"}
			d := ready()
			Expect(d.SavePins(pins)).To(Succeed())
			first := inode()
			Expect(d.SavePins(pins)).To(Succeed())
			Expect(inode()).To(Equal(first))
			Expect(d.Close()).To(Succeed())
			d = ready()
			Expect(d.SavePins(pins)).To(Succeed())
			Expect(inode()).To(Equal(first))
			Expect(d.SavePins(map[string]string{"db": "db-0"})).To(Succeed())
			Expect(inode()).NotTo(Equal(first))
		})

		It("refuses to store before it was loaded, when loading failed, and after it was closed", func() {
			d := open(dir, state.Options{})
			put(dir, "traffic.json", "{")
			for range 2 {
				Expect(d.SaveTraffic(nil, nil)).To(MatchError(state.ErrNotLoaded))
				Expect(d.SavePins(nil)).To(MatchError(state.ErrNotLoaded))
				Expect(d.SaveWeights(nil)).To(MatchError(state.ErrNotLoaded))
				Expect(d.SaveActive(nil)).To(MatchError(state.ErrNotLoaded))
				_, err := d.Load(nil)
				Expect(err).To(HaveOccurred())
			}
			Expect(get(dir, "traffic.json")).To(Equal("{"))
			put(dir, "traffic.json", `{"version":1}`)
			_, err := d.Load(nil)
			Expect(err).NotTo(HaveOccurred())
			_, err = d.Load(nil)
			Expect(err).To(MatchError(ContainSubstring("already")))
			Expect(d.Close()).To(Succeed())
			Expect(d.SaveTraffic(nil, nil)).To(MatchError(state.ErrClosed))
			Expect(d.Settle(nil)).To(MatchError(state.ErrClosed))
			_, err = d.Load(nil)
			Expect(err).To(MatchError(state.ErrClosed))
		})

		It("serialises saves from many goroutines", func() {
			d := ready("db")
			var savers sync.WaitGroup
			for n := range 8 {
				savers.Go(func() {
					defer GinkgoRecover()
					for i := range 5 {
						Expect(d.SavePins(map[string]string{"db": fmt.Sprint("db-", n, "-", i)})).To(Succeed())
						Expect(d.SaveActive(map[string]state.Active{"db": {Backend: "db-0", Epoch: uint64(10*n + i)}})).To(Succeed())
					}
				})
			}
			savers.Wait()
			Expect(d.Settle(map[string]state.Active{"db": {Backend: "db-0", Epoch: 74}})).To(Succeed())
			Expect(d.Close()).To(Succeed())
			saved, err := load(dir, "db")
			Expect(err).NotTo(HaveOccurred())
			Expect(saved.Active["db"].Epoch).To(BeEquivalentTo(74))
			Expect(saved.Pins["db"]).To(HavePrefix("db-"))
		})
	})

	DescribeTable("refuses a file that is wrong, says where, and leaves it as it is",
		func(name, content, text string) {
			Expect(os.Mkdir(dir, 0o700)).To(Succeed())
			put(dir, name, content)
			_, err := load(dir, "db")
			Expect(err).To(MatchError(HavePrefix("reading " + filepath.Join(dir, name) + ": ")))
			Expect(err).To(MatchError(ContainSubstring(text)))
			remedy := map[string]string{
				"traffic.json": "repair the file, or delete it, which turns all traffic on",
				"pins.json":    "repair the file, or delete it, which removes all pins",
				"weights.json": "repair the file, or delete it, which gives all backends their configured weights",
			}[name]
			Expect(err).To(MatchError(HaveSuffix(": " + remedy)))
			Expect(get(dir, name)).To(Equal(content))
			Expect(filepath.Join(dir, "active.json")).NotTo(BeAnExistingFile())
		},
		Entry("when it is empty", "traffic.json", ``, "unexpected end of JSON input at offset 0"),
		Entry("when it is cut short", "traffic.json", `{"version":1,"hosts":{"db"`, "unexpected end of JSON input at offset 26"),
		Entry("when it is garbage", "pins.json", `{"version":1,pins}`, "invalid character 'p'"),
		Entry("when it is full of zeros", "pins.json", "\x00\x00\x00", `invalid character '\x00'`),
		Entry("when there is more after the end", "traffic.json", `{"version":1}{}`, "after top-level value at offset 14"),
		Entry("when it is no object", "pins.json", `[1]`, "of type array and not an object"),
		Entry("when it is null", "traffic.json", `null`, "it has no version"),
		Entry("when it has no version", "pins.json", `{"pins":{}}`, "it has no version"),
		Entry("when the version is newer", "traffic.json", `{"version":2,"routers":[]}`, "it has version 2, and this program knows version 1 only"),
		Entry("when the version is a text", "traffic.json", `{"version":"1"}`, "version cannot be of type string at offset 14"),
		Entry("when a member is unknown", "traffic.json", `{"version":1,"host":{}}`, `unknown member "host" at offset 13`),
		Entry("when a member of a host is unknown", "traffic.json", `{"version":1,"hosts":{"db":{"trafficEnabled":true,"enabled":false}}}`, `unknown member "enabled" at offset 50`),
		Entry("when a host is there twice", "pins.json", `{"version":1,"pins":{"db":"a","db":"b"}}`, `member "db" is there twice at offset 34`),
		Entry("when a flag is missing", "traffic.json", `{"version":1,"hosts":{"db":{"message":"x"}}}`, `host "db" has no trafficEnabled`),
		Entry("when a host is null", "traffic.json", `{"version":1,"hosts":{"db":null}}`, `host "db" has no trafficEnabled`),
		Entry("when the router's flag is missing", "traffic.json", `{"version":1,"router":{}}`, `router has no trafficEnabled`),
		Entry("when a flag is a text", "traffic.json", `{"version":1,"router":{"trafficEnabled":"no"}}`, `trafficEnabled cannot be of type string`),
		Entry("when a time is none", "traffic.json", `{"version":1,"router":{"trafficEnabled":true,"lastUpdated":"noon"}}`, `noon`),
		Entry("when a pin is null", "pins.json", `{"version":1,"pins":{"db":null}}`, `host "db" is pinned to no backend`),
		Entry("when a pin is empty", "pins.json", `{"version":1,"pins":{"db":""}}`, `host "db" is pinned to no backend`),
		Entry("when a weight is null", "weights.json", `{"version":1,"hosts":{"shop":{"a":1,"b":null}}}`, `backend "b" of host "shop" has no weight from 0 to 1000000`),
		Entry("when a weight is negative", "weights.json", `{"version":1,"hosts":{"shop":{"a":-1}}}`, `backend "a" of host "shop" has no weight`),
		Entry("when a weight is too great", "weights.json", `{"version":1,"hosts":{"shop":{"a":1000001}}}`, `backend "a" of host "shop" has no weight`),
		Entry("when a weight is a text", "weights.json", `{"version":1,"hosts":{"shop":{"a":"1"}}}`, "cannot be of type string"),
		Entry("when it is nested too deep", "pins.json", deep(), "depth"),
		Entry("when it is far too long", "pins.json", long(), "longer than"),
	)

	It("tells of all that is wrong at once", func() {
		Expect(os.Mkdir(dir, 0o700)).To(Succeed())
		put(dir, "traffic.json", "{")
		put(dir, "pins.json", "{")
		put(dir, "weights.json", "{")
		_, err := load(dir)
		Expect(err).To(MatchError(And(ContainSubstring("traffic.json"), ContainSubstring("pins.json"), ContainSubstring("weights.json"))))
	})

	It("says so when a file cannot be read", func() {
		Expect(os.MkdirAll(filepath.Join(dir, "traffic.json"), 0o700)).To(Succeed())
		_, err := load(dir)
		Expect(err).To(MatchError("reading " + filepath.Join(dir, "traffic.json") + ": is a directory"))
	})

	Describe("epochs", func() {
		restart := func(d *state.Dir) (*state.Dir, state.Active) {
			GinkgoHelper()
			Expect(d.Close()).To(Succeed())
			d = open(dir, state.Options{})
			saved, err := d.Load([]string{"db"})
			Expect(err).NotTo(HaveOccurred())
			return d, saved.Active["db"]
		}
		db := func(epoch uint64) map[string]state.Active {
			return map[string]state.Active{"db": {Backend: "db-0", Epoch: epoch}}
		}

		It("go on from the exact one after an orderly stop", func() {
			d := ready("db")
			Expect(d.SaveActive(db(3))).To(Succeed())
			Expect(d.Settle(db(5))).To(Succeed())
			d, active := restart(d)
			Expect(active).To(Equal(state.Active{Backend: "db-0", Epoch: 5}))
			Expect(d.Settle(db(5))).To(Succeed())
			_, active = restart(d)
			Expect(active.Epoch).To(BeEquivalentTo(5))
		})

		It("go on from the ceiling after a crash, also before any save", func() {
			d := ready("db")
			Expect(d.Ceiling("db")).To(BeEquivalentTo(state.Reserve))
			d, active := restart(d)
			Expect(active).To(Equal(state.Active{Epoch: state.Reserve}))
			Expect(d.SaveActive(db(state.Reserve + 1))).To(Succeed())
			_, active = restart(d)
			Expect(active).To(Equal(state.Active{Backend: "db-0", Epoch: 2 * state.Reserve}))
		})

		It("are reserved anew when less than half is left, and not before", func() {
			d := ready("db")
			Expect(d.SaveActive(db(state.Reserve / 2))).To(Succeed())
			Expect(d.Ceiling("db")).To(BeEquivalentTo(state.Reserve))
			Expect(d.SaveActive(db(state.Reserve/2 + 1))).To(Succeed())
			Expect(d.Ceiling("db")).To(BeEquivalentTo(state.Reserve*3/2 + 1))
			_, active := restart(d)
			Expect(active.Epoch).To(BeEquivalentTo(state.Reserve*3/2 + 1))
		})

		It("do not go back with a save that comes late", func() {
			d := ready("db")
			Expect(d.SaveActive(map[string]state.Active{"db": {Backend: "db-1", Epoch: 9}})).To(Succeed())
			Expect(d.SaveActive(db(8))).To(Succeed())
			Expect(d.Settle(db(8))).To(Succeed())
			_, active := restart(d)
			Expect(active.Backend).To(Equal("db-1"))
			Expect(active.Epoch).To(BeNumerically(">=", 9))
		})

		It("are kept for a host that is out of the configuration for a while", func() {
			d := ready("db")
			Expect(d.Settle(db(42))).To(Succeed())
			Expect(d.Close()).To(Succeed())
			d = ready("web")
			Expect(d.Settle(map[string]state.Active{"web": {Epoch: 1}})).To(Succeed())
			_, active := restart(d)
			Expect(active).To(Equal(state.Active{Backend: "db-0", Epoch: 42}))
		})

		It("are 0 for a host nobody has heard of", func() {
			Expect(ready("db").Ceiling("web")).To(BeZero())
		})

		DescribeTable("go on from the time of day when the file is broken, which is moved aside and told",
			func(content string) {
				Expect(ready("db").Close()).To(Succeed())
				put(dir, "active.json", content)
				Expect(os.Chtimes(filepath.Join(dir, "active.json"), at, at)).To(Succeed())
				output := gbytes.NewBuffer()
				now := at.Add(time.Hour)
				o := state.Options{Log: slog.New(slog.NewTextHandler(output, nil)), Clock: stopped(now)}
				d := open(dir, o)
				saved, err := d.Load([]string{"db"})
				Expect(err).NotTo(HaveOccurred())
				Expect(saved.Active["db"]).To(Equal(state.Active{Epoch: uint64(now.Unix())}))
				Expect(output).To(gbytes.Say("level=ERROR.*active.json.*active.json.corrupt"))
				Expect(get(dir, "active.json.corrupt")).To(Equal(content))
				// A host that was in the broken file, and is added later.
				Expect(d.Close()).To(Succeed())
				saved, err = load(dir, "web")
				Expect(err).NotTo(HaveOccurred())
				Expect(saved.Active["web"].Epoch).To(BeEquivalentTo(now.Unix()))
			},
			Entry("when it is empty", ""),
			Entry("when it is cut short", `{"version":1,"hosts":{`),
			Entry("when it is of another version", `{"version":7}`),
			Entry("when an epoch is above its ceiling", `{"version":1,"floor":0,"hosts":{"db":{"backend":"","epoch":5,"reserved":4}}}`),
			Entry("when an epoch is negative", `{"version":1,"floor":0,"hosts":{"db":{"backend":"","epoch":-1,"reserved":4}}}`),
			Entry("when an epoch would overflow", fmt.Sprintf(`{"version":1,"floor":0,"hosts":{"db":{"backend":"","epoch":1,"reserved":%d}}}`, uint64(math.MaxUint64))),
			Entry("when the floor would overflow", fmt.Sprintf(`{"version":1,"floor":%d,"hosts":{}}`, uint64(math.MaxUint64))),
		)

		It("go on from the file's own time when the clock is at 1970 (L10)", func() {
			Expect(ready("db").Close()).To(Succeed())
			put(dir, "active.json", "")
			Expect(os.Chtimes(filepath.Join(dir, "active.json"), at, at)).To(Succeed())
			saved, err := open(dir, state.Options{Clock: stopped(time.Unix(0, 0))}).Load([]string{"db"})
			Expect(err).NotTo(HaveOccurred())
			Expect(saved.Active["db"].Epoch).To(BeEquivalentTo(at.Unix()))
		})

		It("go on from the time of day when the file is lost from a used directory", func() {
			d := ready("db")
			Expect(d.Settle(db(42))).To(Succeed())
			Expect(d.Close()).To(Succeed())
			Expect(os.Remove(filepath.Join(dir, "active.json"))).To(Succeed())
			saved, err := open(dir, state.Options{Clock: stopped(at)}).Load([]string{"db"})
			Expect(err).NotTo(HaveOccurred())
			Expect(saved.Active["db"].Epoch).To(BeEquivalentTo(at.Unix()))
		})
	})

	Describe("a full disk (L10)", func() {
		It("is a clear error, keeps what was stored, and passes", func() {
			mount(dir)
			d := open(dir, state.Options{})
			_, err := d.Load([]string{"db"})
			Expect(err).NotTo(HaveOccurred())
			Expect(d.SavePins(map[string]string{"db": "db-0"})).To(Succeed())
			filler := fill(dir)

			pins := map[string]string{"db": "db-1"}
			err = d.SavePins(pins)
			Expect(err).To(MatchError(syscall.ENOSPC))
			Expect(err).To(MatchError("storing " + filepath.Join(dir, "pins.json") + ": no space left on device"))
			Expect(get(dir, "pins.json")).To(ContainSubstring("db-0"))
			Expect(filepath.Join(dir, "pins.json.tmp")).NotTo(BeAnExistingFile())
			Expect(d.SaveActive(map[string]state.Active{"db": {Epoch: 900}})).To(MatchError(syscall.ENOSPC))
			Expect(d.Ceiling("db")).To(BeEquivalentTo(state.Reserve), "only what is durable counts")

			Expect(os.Remove(filler)).To(Succeed())
			Expect(d.SavePins(pins)).To(Succeed())
			Expect(d.SaveActive(map[string]state.Active{"db": {Epoch: 900}})).To(Succeed())
			Expect(d.Ceiling("db")).To(BeEquivalentTo(900 + state.Reserve))
			Expect(d.Close()).To(Succeed())
			saved, err := load(dir)
			Expect(err).NotTo(HaveOccurred())
			Expect(saved.Pins).To(Equal(pins))
		})

		It("is found by Load, which must reserve epochs", func() {
			mount(dir)
			d := open(dir, state.Options{})
			fill(dir)
			_, err := d.Load([]string{"db"})
			Expect(err).To(MatchError(syscall.ENOSPC))
		})
	})

	It("loses nothing that was acknowledged to a kill -9 at any moment, and is free again (L3)", func() {
		epoch, traffic := uint64(0), 0
		for range 50 {
			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), childDir+"="+dir)
			var complaints bytes.Buffer
			child.Stderr = &complaints
			output, err := child.StdoutPipe()
			Expect(err).NotTo(HaveOccurred())
			Expect(child.Start()).To(Succeed())
			// Killed at any moment after so many saves.
			until := traffic + 1 + rand.N(3)
			for lines := bufio.NewScanner(output); lines.Scan(); {
				what, number, _ := strings.Cut(lines.Text(), " ")
				n, err := strconv.Atoi(number)
				Expect(err).NotTo(HaveOccurred())
				if what == "e" {
					epoch = max(epoch, uint64(n))
					continue
				}
				if traffic = n; traffic == until {
					time.AfterFunc(rand.N(2*time.Millisecond), func() { child.Process.Kill() })
				}
			}
			Expect(child.Wait()).To(MatchError("signal: killed"), complaints.String)

			saved, err := load(dir, "db")
			Expect(err).NotTo(HaveOccurred())
			Expect(saved.Active["db"].Epoch).To(BeNumerically(">=", epoch))
			got := 0
			if saved.Router != nil {
				fmt.Sscanf(saved.Router.Message, "%d", &got)
				Expect(saved.Router.Message == message(got)).To(BeTrue(), "save %d is not whole", got)
			}
			Expect(got).To(Or(Equal(traffic), Equal(traffic+1)), "the last acknowledged save, or the one after it")
			traffic = got
		}
		Expect(epoch).To(BeNumerically(">", 50*state.Reserve/2), "epochs were used between the kills")
	})

	It("is refused to a second process, and free when the first one is killed (L3)", func() {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), childDir+"="+dir)
		output, err := child.StdoutPipe()
		Expect(err).NotTo(HaveOccurred())
		Expect(child.Start()).To(Succeed())
		Expect(bufio.NewScanner(output).Scan()).To(BeTrue())
		_, err = state.Open(dir, state.Options{})
		Expect(err).To(MatchError(ContainSubstring("in use by another process")))
		Expect(child.Process.Kill()).To(Succeed())
		Expect(child.Wait()).NotTo(Succeed())
		open(dir, state.Options{})
	})
})

// stopped is a clock that stands still.
type stopped time.Time

func (s stopped) Now() time.Time                     { return time.Time(s) }
func (s stopped) NewTimer(time.Duration) clock.Timer { panic("state has no timers") }

func deep() string {
	const levels = 20_000
	return `{"version":1,"pins":` + string(bytes.Repeat([]byte("["), levels)) + string(bytes.Repeat([]byte("]"), levels)) + `}`
}

func long() string {
	return `{"version":1}` + string(bytes.Repeat([]byte(" "), 16<<20))
}

// mount makes dir a small file system of its own.
func mount(dir string) {
	GinkgoHelper()
	Expect(os.MkdirAll(dir, 0o700)).To(Succeed())
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		Skip("this needs a file system that can be mounted, which the machine does not allow: " + err.Error())
	}
	DeferCleanup(func() { Expect(syscall.Unmount(dir, 0)).To(Succeed()) })
}

// fill leaves no space in dir, and returns the file to remove.
func fill(dir string) string {
	GinkgoHelper()
	name := filepath.Join(dir, "filler")
	f, err := os.Create(name)
	Expect(err).NotTo(HaveOccurred())
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	Expect(err).To(MatchError(syscall.ENOSPC))
	return name
}

// asNobody calls f with the file permissions of a user that owns nothing, if we
// are root; permissions do not bind root.
func asNobody(f func() error) error {
	if os.Geteuid() != 0 {
		return f()
	}
	err := make(chan error)
	go func() {
		// The file system's user is the thread's alone. It ends with the goroutine,
		// as it stays locked to it.
		runtime.LockOSThread()
		syscall.RawSyscall(syscall.SYS_SETFSUID, 65534, 0, 0)
		err <- f()
	}()
	return <-err
}
