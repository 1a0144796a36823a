package api

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/julienschmidt/httprouter"

	"switchboard/bridge/route"
)

// v0Backend, v0Cluster and v0Listed have the fields of the original in its order.
type v0Backend struct {
	Host string `json:"host"`
	Port int    `json:"port"`
	Name string `json:"name"`
}

type v0Cluster struct {
	ActiveBackend  *v0Backend `json:"activeBackend"`
	TrafficEnabled bool       `json:"trafficEnabled"`
	Message        string     `json:"message"`
	// LastUpdated is in the year 1 until the first change, on the wire too.
	LastUpdated time.Time `json:"lastUpdated"`
}

type v0Listed struct {
	Host                string `json:"host"`
	Port                int    `json:"port"`
	Healthy             bool   `json:"healthy"`
	Name                string `json:"name"`
	CurrentSessionCount int    `json:"currentSessionCount"`
	Active              bool   `json:"active"`
	TrafficEnabled      bool   `json:"trafficEnabled"`
}

func (a *API) getV0Cluster(http.ResponseWriter, *http.Request, httprouter.Params) (any, error) {
	return a.v0Cluster(), nil
}

func (a *API) getV0Backends(http.ResponseWriter, *http.Request, httprouter.Params) (any, error) {
	flag, _ := a.sources.Traffic.Get()
	listed := []v0Listed{}
	for _, b := range a.v0Host().Backends {
		host, port := v0Address(b.Address)
		listed = append(listed, v0Listed{
			Host: host, Port: port, Name: b.Name,
			Healthy: b.Healthy, CurrentSessionCount: b.CurrentSessionCount, Active: b.Active,
			TrafficEnabled: flag.Enabled,
		})
	}
	return listed, nil
}

// patchV0Cluster takes its parameters from the query or a form, as the original
// does. Unlike there, an error is all that is answered.
func (a *API) patchV0Cluster(w http.ResponseWriter, r *http.Request, _ httprouter.Params) (any, error) {
	r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
	var long *http.MaxBytesError
	if err := r.ParseForm(); errors.As(err, &long) {
		return nil, problem(http.StatusRequestEntityTooLarge, "form too large").with("Connection", "close")
	} else if err != nil {
		return nil, problem(http.StatusBadRequest, "Failed to parse form")
	}
	enabled, err := strconv.ParseBool(r.Form.Get("trafficEnabled"))
	if err != nil {
		return nil, problem(http.StatusBadRequest, "Failed to parse trafficEnabled")
	}
	c := change{setTraffic: true, enabled: enabled, message: r.Form.Get("message")}
	if !enabled && c.message == "" {
		return nil, problem(http.StatusBadRequest, "message must not be empty")
	}
	if detail := checkMessage(c.message); detail != "" {
		return nil, problem(http.StatusBadRequest, "message "+detail)
	}
	note(r, "change", c)
	release, err := a.hold(r.Context(), a.router)
	if err != nil {
		return nil, err
	}
	defer release()
	if _, err := a.act(r, a.router, c, Host{}); err != nil {
		return nil, err
	}
	return a.v0Cluster(), nil
}

func (a *API) v0Cluster() v0Cluster {
	flag, _ := a.sources.Traffic.Get()
	c := v0Cluster{TrafficEnabled: flag.Enabled, Message: flag.Message, LastUpdated: flag.LastUpdated}
	if active := a.v0Host().Active; active != nil {
		host, port := v0Address(active.Address)
		c.ActiveBackend = &v0Backend{Host: host, Port: port, Name: active.Name}
	}
	return c
}

// v0Host is the first host with one active backend, which is all that the
// original knew.
func (a *API) v0Host() Host {
	for _, source := range a.sources.Hosts {
		if source.Policy == route.Active {
			return source.View()
		}
	}
	return Host{}
}

func v0Address(address string) (host string, port int) {
	host, port, err := route.ParseAddress(address, false)
	if err != nil {
		return address, 0
	}
	return host, port
}
