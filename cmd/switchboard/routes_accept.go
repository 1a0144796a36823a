package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"switchboard/runner/config"
)

// apiVariable names a router's API where there is no flag.
const apiVariable = config.EnvPrefix + "API"

// defaultAPI is the API of a router on this machine.
const defaultAPI = "http://127.0.0.1:9090"

// acceptTimeout bounds an accept, for which a router reads the whole table.
const acceptTimeout = time.Minute

func (p *program) routesAccept() *cobra.Command {
	var api, output string
	command := &cobra.Command{
		Use:   "accept",
		Short: "Let a router take the table that Redis has",
		Long: `Lets a router take the table that Redis has, though it is older than its own, or empty,
or of another history: a router that has an alarm keeps its own until somebody says so.
It is each router's own decision: do this for every one of them.

The API is named with --api or ` + apiVariable + `. The user name and the password are put
in its URL, or in SWITCHBOARD_API_USERNAME and SWITCHBOARD_API_PASSWORD or
SWITCHBOARD_API_PASSWORD_FILE.`,
		Example: "  switchboard routes accept\n  switchboard routes accept --api http://10.0.1.2:9090",
		Args:    noArguments("; name the router with --api URL"),
	}
	command.RunE = func(command *cobra.Command, _ []string) error {
		if err := checkOutput(output); err != nil {
			return err
		}
		base, err := p.apiURL(api)
		if err != nil {
			return err
		}
		request, err := http.NewRequestWithContext(command.Context(), http.MethodPost, base.JoinPath("table", "accept").String(), nil)
		if err != nil {
			return err
		}
		text, err := ask(request)
		if err == nil {
			err = p.tellAccept(output, text)
		}
		if err != nil {
			fmt.Fprintf(p.errs, "%s: %v\n(the router at %s)\n", command.CommandPath(), err, base.Redacted())
			return errFailed
		}
		return nil
	}
	command.Flags().StringVar(&api, "api", "", "the router's API, a `URL` ("+apiVariable+"; default "+defaultAPI+")")
	outputFlag(command, &output)
	return command
}

// apiURL is where a router's API is, with the user name and the password if there are any.
func (p *program) apiURL(flag string) (*url.URL, error) {
	base, err := url.Parse(cmp.Or(flag, p.value(apiVariable), defaultAPI))
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		// The parser's error would quote the password.
		return nil, fmt.Errorf("the router's API is a URL such as %s", defaultAPI)
	}
	if base.User != nil {
		return base, nil
	}
	password := p.value(apiVariable + "_PASSWORD")
	if file := p.value(apiVariable + "_PASSWORD_FILE"); file != "" {
		if password, err = readPassword(file); err != nil {
			return nil, err
		}
	}
	if name := p.value(apiVariable + "_USERNAME"); name != "" || password != "" {
		base.User = url.UserPassword(name, password)
	}
	return base, nil
}

// ask sends a request that changes something, and returns the body of a good answer.
func ask(request *http.Request) ([]byte, error) {
	client := http.Client{Timeout: acceptTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		err, dialed := unanswered(err)
		if !dialed {
			return nil, err
		}
		return nil, fmt.Errorf("%w: it is unknown whether the router has done it; its GET /cluster tells", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if response.StatusCode/100 == 2 {
		return text, err
	}
	return nil, refusal(response, text)
}

// unanswered says why there is no answer to a request, and whether the router may have
// got it.
func unanswered(err error) (why error, dialed bool) {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return errors.New("nothing listens there: is the router up? Name its API with --api URL or " + apiVariable), false
	}
	// The error of the client quotes the URL, which stands beside it.
	var about *url.Error
	if errors.As(err, &about) {
		err = about.Err
	}
	var dial *net.OpError
	return err, !errors.As(err, &dial) || dial.Op != "dial"
}

// refusal is an answer that is none of success.
func refusal(response *http.Response, text []byte) error {
	var problem struct {
		Type   string `json:"type"`
		Detail string `json:"detail"`
	}
	_ = json.Unmarshal(text, &problem)
	switch detail := problem.Detail; {
	case response.StatusCode == http.StatusNotFound && !strings.HasPrefix(problem.Type, "urn:switchboard:"):
		return errors.New("this router knows no such request: it is of another version (404)")
	case response.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("it wants a user name and a password: %s_USERNAME and %s_PASSWORD_FILE, or in the URL (401)", apiVariable, apiVariable)
	case detail != "":
		return fmt.Errorf("%s (%d)", detail, response.StatusCode)
	default:
		return errors.New("it answers " + response.Status)
	}
}

// tellAccept shows the state of the table that was accepted.
func (p *program) tellAccept(output string, text []byte) error {
	if output == "json" {
		_, err := p.out.Write(append([]byte(strings.TrimRight(string(text), "\n")), '\n'))
		return err
	}
	var state struct {
		Serial uint64 `json:"serial"`
		Hosts  int    `json:"hosts"`
	}
	if err := json.Unmarshal(text, &state); err != nil {
		return errors.New("it has accepted the table, and its answer cannot be read")
	}
	_, err := fmt.Fprintf(p.out, "accepted: the router has the table of Redis; hosts: %d, serial: %d\n", state.Hosts, state.Serial)
	return err
}
