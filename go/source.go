package selector

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

var (
	// ErrUnchanged says that a file is still the one whose ETag was given.
	ErrUnchanged = errors.New("unchanged")
	// ErrTooLarge says that a published file is larger than it may be.
	ErrTooLarge = errors.New("larger than allowed")
)

// Source is where a node gets published files from: the channel document as
// "channel/channel.json" and bundles as "bundles/<version>/<file>".
type Source interface {
	// Read returns a file of at most limitBytes and its ETag. If etag is that of
	// the file as it is, it may return ErrUnchanged instead. A larger file is
	// ErrTooLarge, and no more than limitBytes+1 of it are read.
	Read(ctx context.Context, name string, limitBytes int64, etag string) (data []byte, newETag string, err error)
}

// DirectorySource reads from a directory as the pipeline writes it: its home, or a
// copy that something else keeps current.
type DirectorySource string

// Read implements Source; a directory has no ETags. Links and devices are refused.
func (dir DirectorySource) Read(_ context.Context, name string, limitBytes int64, _ string) ([]byte, string, error) {
	if !filepath.IsLocal(name) {
		return nil, "", fmt.Errorf("%q lies outside of %s", name, string(dir))
	}
	data, err := readPlainFile(filepath.Join(string(dir), filepath.FromSlash(name)), limitBytes)
	return data, "", err
}

// HTTPSource reads from a web server that serves such a directory.
type HTTPSource struct {
	base   string
	client *http.Client
}

// DefaultHTTPTimeout bounds one download as a whole.
const DefaultHTTPTimeout = 30 * time.Second

// NewHTTPSource reads below base. A nil client means one of its own, with a timeout of
// DefaultHTTPTimeout.
func NewHTTPSource(base string, client *http.Client) (*HTTPSource, error) {
	parsed, err := url.Parse(base)
	if err != nil || (parsed.Scheme != "http" && parsed.Scheme != "https") || parsed.Host == "" {
		return nil, fmt.Errorf("%q is no address to download from: give http(s)://host/path", base)
	}
	if client == nil {
		client = &http.Client{Timeout: DefaultHTTPTimeout}
	}
	return &HTTPSource{strings.TrimSuffix(base, "/") + "/", client}, nil
}

// Read implements Source.
func (source *HTTPSource) Read(ctx context.Context, name string, limitBytes int64, etag string) ([]byte, string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, source.base+name, nil)
	if err != nil {
		return nil, "", err
	}
	if etag != "" {
		request.Header.Set("If-None-Match", etag)
	}
	response, err := source.client.Do(request)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = response.Body.Close() }() // what was wanted of it has been read
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusNotModified:
		return nil, etag, ErrUnchanged
	case http.StatusNotFound:
		return nil, "", fmt.Errorf("%s: %w", source.base+name, os.ErrNotExist)
	default:
		return nil, "", fmt.Errorf("%s: the server answers %s", source.base+name, response.Status)
	}
	data, err := readBounded(response.Body, limitBytes)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", source.base+name, err)
	}
	return data, response.Header.Get("ETag"), nil
}

func readPlainFile(path string, limitBytes int64) ([]byte, error) {
	// Asked before it is opened: opening a pipe that nobody writes to would wait for ever.
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no plain file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	data, err := readBounded(file, limitBytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}

func readBounded(reader io.Reader, limitBytes int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(reader, limitBytes+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limitBytes {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limitBytes)
	}
	return data, nil
}
