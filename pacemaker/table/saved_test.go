package table_test

import (
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"switchboard/bridge/route"
	"switchboard/pacemaker/table"
)

var _ = Describe("Saved", func() {
	write := func() string {
		GinkgoHelper()
		one := table.DecodeHost("a", []string{"10.0.0.1:80#1#2#i"}, map[string]string{"weight:i": "5", "hold": "2s"}, nil, nil)
		two := table.DecodeHost("*.b", nil, map[string]string{"policy": "active"}, nil, nil)
		hosts, err := route.NewTable(route.Options{}, one, two)
		Expect(err).NotTo(HaveOccurred())
		var text strings.Builder
		n, err := table.Saved{Serial: 7, Table: hosts}.WriteTo(&text)
		Expect(err).NotTo(HaveOccurred())
		Expect(n).To(BeEquivalentTo(text.Len()))
		return text.String()
	}

	It("is read as it was written", func() {
		saved, err := table.ReadSaved(strings.NewReader(write()))
		Expect(err).NotTo(HaveOccurred())
		Expect(saved.Serial).To(BeEquivalentTo(7))
	})

	It("is not believed if it is cut or changed anywhere", func() {
		whole := write()
		for at := range len(whole) {
			_, err := table.ReadSaved(strings.NewReader(whole[:at]))
			Expect(err).To(HaveOccurred(), whole[:at])
			// A bit in a line that is not the last one.
			if at < strings.Index(whole, `{"end"`) {
				changed := []byte(whole)
				changed[at] ^= 1
				_, err = table.ReadSaved(strings.NewReader(string(changed)))
				Expect(err).To(HaveOccurred(), string(changed))
			}
		}
		_, err := table.ReadSaved(strings.NewReader(whole + "\n"))
		Expect(err).To(MatchError(ContainSubstring("something follows")))
		_, err = table.ReadSaved(strings.NewReader(strings.Replace(whole, `"version":1`, `"version":2`, 1)))
		Expect(err).To(MatchError(ContainSubstring("it has version 2")))
	})

	It("is a file that is replaced whole, readable by its owner only", func() {
		name := filepath.Join(GinkgoT().TempDir(), "table.jsonl")
		file := table.File(name)
		_, err := file.Load()
		Expect(err).To(MatchError(os.ErrNotExist))
		saved, err := table.ReadSaved(strings.NewReader(write()))
		Expect(err).NotTo(HaveOccurred())
		Expect(file.Save(saved)).To(Succeed())
		Expect(file.Load()).To(HaveField("Serial", saved.Serial))
		info, err := os.Stat(name)
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode().Perm()).To(Equal(os.FileMode(0o600)))
		Expect(filepath.Join(filepath.Dir(name), "nowhere", "x")).NotTo(BeAnExistingFile())
		Expect(table.File(filepath.Join(filepath.Dir(name), "nowhere", "x")).Save(saved)).NotTo(Succeed())
	})
})
