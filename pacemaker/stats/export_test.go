package stats

// Record is what the fuzz test looks at.
type Record struct {
	Second                  int64
	VersionType, Node, Host string
	Session                 bool
	Bytes                   int64
	Code                    int
	Upstream, Took          int64
	Reached                 bool
}

// Parse is parse.
func Parse(line []byte) (Record, error) {
	r, err := parse(line)
	return Record{r.second, r.versionType, r.node, r.host, r.session, r.bytes, r.code, r.upstream, r.took, r.reached}, err
}

// Reread reads a position and writes it.
func Reread(text string) (string, error) {
	p, err := parsePosition(text)
	return p.String(), err
}
