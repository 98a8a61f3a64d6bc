package node

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
)

// MetricsTo sets where a logger sends its rows: to an InfluxDB at http(s)://…, or to a
// file, in line protocol, that anything may load later.
func MetricsTo(where string) (url string, client *http.Client, err error) {
	if strings.HasPrefix(where, "http://") || strings.HasPrefix(where, "https://") {
		return where, nil, nil
	}
	file, err := os.OpenFile(where, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return "", nil, fmt.Errorf("metrics cannot be written: %w", err)
	}
	return "http://file", &http.Client{Transport: &fileTransport{file: file}}, nil
}

// fileTransport answers a write request as InfluxDB would, once its rows are in the file.
type fileTransport struct {
	mutex sync.Mutex
	file  *os.File
}

// RoundTrip implements http.RoundTripper.
func (t *fileTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	rows, err := io.ReadAll(request.Body)
	if err != nil {
		return nil, err
	}
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if _, err := t.file.Write(rows); err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: http.StatusNoContent, Status: "204 No Content", Body: io.NopCloser(&bytes.Reader{}), Request: request,
	}, nil
}
