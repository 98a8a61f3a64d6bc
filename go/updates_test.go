package selector

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// publisher writes channel documents and bundles as the pipeline does.
type publisher struct {
	t    *testing.T
	home string
	key  ed25519.PrivateKey
}

func newPublisher(t *testing.T) *publisher {
	t.Helper()
	seed := sha256.Sum256([]byte(t.Name()))
	return &publisher{t, t.TempDir(), ed25519.NewKeyFromSeed(seed[:])}
}

func (p *publisher) public() ed25519.PublicKey { return p.key.Public().(ed25519.PublicKey) }

func (p *publisher) file(elements ...string) string {
	return filepath.Join(append([]string{p.home}, elements...)...)
}

func (p *publisher) write(data []byte, elements ...string) {
	p.t.Helper()
	name := p.file(elements...)
	_ = os.Remove(name) // a link may stand there
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, data, 0o644)); err != nil {
		p.t.Fatal(err)
	}
}

// bundle publishes a version whose model file is its answer, see loadFake.
func (p *publisher) bundle(version string, changes map[string]any) (digest string) {
	p.t.Helper()
	model := []byte(fmt.Sprintf(`{"version":%q,"probabilities":[0.9,0.06,0.04]}`, version))
	sum := sha256.Sum256(model)
	body := map[string]any{
		"kind": "dwcp.bundle", "format": 1, "version": version, "classes": choiceNames[:CandidateCount],
		"feature_set_digest": FeatureSetDigest, "feature_names": []string{"rtt_ms"},
		"files": map[string]any{"model.dwcp": map[string]any{"size_bytes": len(model), "sha256": hex.EncodeToString(sum[:])}},
	}
	for name, value := range changes {
		body[name] = value
	}
	manifest := p.json(body)
	p.write(manifest, "bundles", version, manifestName)
	p.write(ed25519.Sign(p.key, manifest), "bundles", version, signatureName)
	p.write(model, "bundles", version, modelName)
	digested := sha256.Sum256(manifest)
	return hex.EncodeToString(digested[:])
}

func (p *publisher) json(value any) []byte {
	p.t.Helper()
	text, err := json.Marshal(value) // sorts the keys of maps, as canonical JSON does
	if err != nil {
		p.t.Fatal(err)
	}
	return text
}

func (p *publisher) sign(document any) []byte {
	p.t.Helper()
	text := p.json(document)
	return []byte(fmt.Sprintf("{\"document\":%s,\"key_id\":%q,\"signature\":%q}\n", text, keyIDOf(p.public()),
		base64.StdEncoding.EncodeToString(ed25519.Sign(p.key, text))))
}

func channelBody(serial int64, state map[string]any, bundles map[string]string) map[string]any {
	return map[string]any{
		"kind": "dwcp.channel", "format": 1, "serial": serial, "issued_at": "2026-06-01T12:00:00.123456+00:00",
		"regions": map[string]any{"us-east": state}, "bundles": bundles,
	}
}

func regionBody(champion, challenger any, share int) map[string]any {
	return map[string]any{"champion": champion, "challenger": challenger, "share_buckets": share}
}

// champion publishes the version's bundle and a channel that lets it serve.
func (p *publisher) champion(serial int64, version string) []byte {
	p.t.Helper()
	document := p.sign(channelBody(serial, regionBody(version, nil, 0), map[string]string{version: p.bundle(version, nil)}))
	p.write(document, "channel", "channel.json")
	return document
}

func loadFake(data []byte) (Predictor, error) {
	var model struct {
		Version       string                  `json:"version"`
		Probabilities [CandidateCount]float32 `json:"probabilities"`
	}
	if err := json.Unmarshal(data, &model); err != nil {
		return nil, err
	}
	if model.Version == "" {
		panic("a bug in a loader")
	}
	return fakeModel{version: model.Version, probabilities: model.Probabilities}, nil
}

type node struct {
	selector *CompressionSelectorML
	updater  *Updater
}

func (p *publisher) node(source Source, stateDir string) *node {
	p.t.Helper()
	selector := New(WithNodeID("node-1"), WithMaxModelAge(0))
	updater, err := NewUpdater(selector, UpdaterConfig{
		Source: source, PublicKey: p.public(), Region: RegionUSEast, StateDir: stateDir, Load: loadFake,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return &node{selector, updater}
}

func (n *node) decide() (Decision, error) {
	network, data := wanTransfer()
	return n.selector.SelectCompression(context.Background(), network, data)
}

func (n *node) expect(t *testing.T, version string, reason Reason) {
	t.Helper()
	decision, err := n.decide()
	if decision.ModelVersion != version || decision.Reason != reason {
		t.Errorf("decided by %q (%v, error %v), expected %q (%v); updater: %+v",
			decision.ModelVersion, decision.Reason, err, version, reason, n.updater.Status())
	}
}

func TestANodeFollowsTheChannel(t *testing.T) {
	p := newPublisher(t)
	n := p.node(DirectorySource(p.home), t.TempDir())
	n.expect(t, "", ReasonModelMissing)
	if err := n.updater.Poll(context.Background()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("before the first release: %v", err)
	}
	n.expect(t, "", ReasonModelMissing)
	first := p.champion(1, "v1")
	for _, step := range []struct {
		publish func()
		version string
		reason  Reason
	}{
		{func() {}, "v1", ReasonModel},
		{func() { p.champion(2, "v2") }, "v2", ReasonModel},
		{func() { p.champion(3, "v1") }, "v1", ReasonModel}, // a rollback is a higher serial
		{func() {
			p.write(p.sign(channelBody(4, regionBody(nil, nil, 0), map[string]string{})), "channel", "channel.json")
		}, "", ReasonRules},
		{func() { p.champion(5, "v2") }, "v2", ReasonModel},
	} {
		step.publish()
		if err := n.updater.Poll(context.Background()); err != nil {
			t.Error(err)
		}
		n.expect(t, step.version, step.reason)
	}
	if err := n.updater.Poll(context.Background()); err != nil || n.updater.Status().Unchanged != 1 {
		t.Errorf("%v, %+v", err, n.updater.Status())
	}
	p.write(first, "channel", "channel.json")
	if err := n.updater.Poll(context.Background()); !errors.Is(err, ErrReplayed) {
		t.Errorf("a replay: %v", err)
	}
	n.expect(t, "v2", ReasonModel)
	if status := n.updater.Status(); status.Serial != 5 || status.Swaps != 5 || status.Refused != 1 || status.LastError == "" {
		t.Errorf("%+v", status)
	}
}

func TestARestartNeedsNoNetworkAndTakesNoReplay(t *testing.T) {
	p, state := newPublisher(t), t.TempDir()
	old := p.champion(1, "v1")
	p.champion(2, "v2")
	n := p.node(DirectorySource(p.home), state)
	if err := n.updater.Poll(context.Background()); err != nil {
		t.Fatal(err)
	}
	nowhere := DirectorySource(filepath.Join(p.home, "unplugged"))
	n = p.node(nowhere, state)
	n.expect(t, "v2", ReasonModel)
	if err := n.updater.Poll(context.Background()); err == nil {
		t.Error("polling nowhere is no error")
	}
	n.expect(t, "v2", ReasonModel)

	p.write(old, "channel", "channel.json")
	n = p.node(DirectorySource(p.home), state)
	if err := n.updater.Poll(context.Background()); !errors.Is(err, ErrReplayed) {
		t.Errorf("a replay after a restart: %v", err)
	}
	n.expect(t, "v2", ReasonModel)

	// A serial was seen, but its bundle was bad: the next start serves the last good one and still knows the serial.
	p.champion(7, "v7")
	p.write([]byte("cut"), "bundles", "v7", modelName)
	if err := n.updater.Poll(context.Background()); !errors.Is(err, ErrBundle) {
		t.Errorf("a bad bundle: %v", err)
	}
	p.champion(6, "v6")
	n = p.node(DirectorySource(p.home), state)
	if err := n.updater.Poll(context.Background()); !errors.Is(err, ErrReplayed) {
		t.Errorf("a replay of what was never followed: %v", err)
	}
	n.expect(t, "v2", ReasonModel)
}

func TestADamagedStateIsReportedAndReplaced(t *testing.T) {
	p, state := newPublisher(t), t.TempDir()
	p.champion(3, "v1")
	if err := p.node(DirectorySource(p.home), state).updater.Poll(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bundles/v1/model.dwcp", "bundles/v1/manifest.sig", "channel/channel.json", "serial"} {
		if err := os.WriteFile(filepath.Join(state, name), []byte("rubbish"), 0o644); err != nil {
			t.Fatal(err)
		}
		n := p.node(DirectorySource(p.home), state)
		if n.updater.Status().LastError == "" {
			t.Errorf("%s: nothing was reported", name)
		}
		if name != "serial" {
			n.expect(t, "", ReasonModelInvalid)
		}
		if err := n.updater.Poll(context.Background()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		n.expect(t, "v1", ReasonModel)
	}
}

func TestABadBundleIsRefusedWhileTheOldOneServes(t *testing.T) {
	for name, spoil := range map[string]func(p *publisher) map[string]any{
		"truncated model": func(p *publisher) map[string]any {
			p.write([]byte(`{"version":`), "bundles", "v2", modelName)
			return nil
		},
		"bit flip in the model": func(p *publisher) map[string]any {
			data, _ := os.ReadFile(p.file("bundles", "v2", modelName))
			data[len(data)-3] ^= 1
			p.write(data, "bundles", "v2", modelName)
			return nil
		},
		"larger than listed": func(p *publisher) map[string]any {
			data, _ := os.ReadFile(p.file("bundles", "v2", modelName))
			p.write(append(data, ' '), "bundles", "v2", modelName)
			return nil
		},
		"bit flip in the manifest": func(p *publisher) map[string]any {
			data, _ := os.ReadFile(p.file("bundles", "v2", manifestName))
			data[len(data)/2] ^= 1
			p.write(data, "bundles", "v2", manifestName)
			return nil
		},
		"another key": func(p *publisher) map[string]any {
			data, _ := os.ReadFile(p.file("bundles", "v2", manifestName))
			_, stranger, _ := ed25519.GenerateKey(nil)
			p.write(ed25519.Sign(stranger, data), "bundles", "v2", signatureName)
			return nil
		},
		"long signature": func(p *publisher) map[string]any {
			data, _ := os.ReadFile(p.file("bundles", "v2", signatureName))
			p.write(append(data, 0), "bundles", "v2", signatureName)
			return nil
		},
		"missing model": func(p *publisher) map[string]any {
			_ = os.Remove(p.file("bundles", "v2", modelName))
			return nil
		},
		"a link": func(p *publisher) map[string]any {
			_ = os.Rename(p.file("bundles", "v2", modelName), p.file("elsewhere"))
			_ = os.Symlink(p.file("elsewhere"), p.file("bundles", "v2", modelName))
			return nil
		},
		"other manifest than released": func(*publisher) map[string]any {
			return map[string]any{"feature_names": []string{"jitter_ms"}}
		},
		"other features":  func(*publisher) map[string]any { return map[string]any{"feature_set_digest": "0"} },
		"other classes":   func(*publisher) map[string]any { return map[string]any{"classes": []string{"hde"}} },
		"other format":    func(*publisher) map[string]any { return map[string]any{"format": 2} },
		"other version":   func(*publisher) map[string]any { return map[string]any{"version": "v9"} },
		"no model listed": func(*publisher) map[string]any { return map[string]any{"files": map[string]any{}} },
		"a huge model listed": func(*publisher) map[string]any {
			return map[string]any{"files": map[string]any{modelName: map[string]any{"size_bytes": int64(1) << 60, "sha256": ""}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPublisher(t)
			n := p.node(DirectorySource(p.home), t.TempDir())
			p.champion(1, "v1")
			if err := n.updater.Poll(context.Background()); err != nil {
				t.Fatal(err)
			}
			digest := p.bundle("v2", nil)
			if changes := spoil(p); changes != nil {
				if changed := p.bundle("v2", changes); name != "other manifest than released" {
					digest = changed
				}
			}
			p.write(p.sign(channelBody(2, regionBody("v2", nil, 0), map[string]string{"v2": digest})), "channel", "channel.json")
			err := n.updater.Poll(context.Background())
			if status := n.updater.Status(); err == nil || status.Swaps != 1 || status.Refused+status.Failed != 1 {
				t.Errorf("error %v, %+v", err, status)
			}
			n.expect(t, "v1", ReasonModel)
			p.bundle("v2", nil)
			p.champion(2, "v2")
			if err := n.updater.Poll(context.Background()); err != nil {
				t.Errorf("repaired: %v", err)
			}
			n.expect(t, "v2", ReasonModel)
		})
	}
}

func TestALoaderThatPanicsIsRefused(t *testing.T) {
	p := newPublisher(t)
	n := p.node(DirectorySource(p.home), t.TempDir())
	n.updater.config.Load = func([]byte) (Predictor, error) { panic("a bug in a loader") }
	p.champion(1, "v1")
	if err := n.updater.Poll(context.Background()); !errors.Is(err, ErrBundle) {
		t.Error(err)
	}
	n.expect(t, "", ReasonModelInvalid)
}

func TestABadChallengerDoesNotHoldBackTheChampion(t *testing.T) {
	p := newPublisher(t)
	n := p.node(DirectorySource(p.home), t.TempDir())
	bundles := map[string]string{"v1": p.bundle("v1", nil), "v2": p.bundle("v2", nil)}
	p.write([]byte("cut"), "bundles", "v2", modelName)
	p.write(p.sign(channelBody(1, regionBody("v1", "v2", RolloutBuckets), bundles)), "channel", "channel.json")
	if err := n.updater.Poll(context.Background()); !errors.Is(err, ErrBundle) {
		t.Error(err)
	}
	n.expect(t, "v1", ReasonModel)
	p.bundle("v2", nil)
	if err := n.updater.Poll(context.Background()); err != nil {
		t.Error(err)
	}
	n.expect(t, "v2", ReasonModel)
	if decision, _ := n.decide(); decision.Arm != ArmCanary {
		t.Errorf("arm %v", decision.Arm)
	}
}

func TestAStaleReleaseLeavesItToTheRules(t *testing.T) {
	p := newPublisher(t)
	selector := New(WithMaxModelAge(time.Hour)) // the test's documents are older than that
	updater, err := NewUpdater(selector, UpdaterConfig{
		Source: DirectorySource(p.home), PublicKey: p.public(), Region: RegionUSEast, StateDir: t.TempDir(), Load: loadFake,
	})
	if err != nil {
		t.Fatal(err)
	}
	p.champion(1, "v1")
	if err := updater.Poll(context.Background()); err != nil {
		t.Fatal(err)
	}
	(&node{selector, updater}).expect(t, "", ReasonModelStale)
}

func TestChannelDocumentsThatAreRefused(t *testing.T) {
	p := newPublisher(t)
	digest := strings.Repeat("a", 64)
	good := func() map[string]any {
		return channelBody(3, regionBody("v1", nil, 0), map[string]string{"v1": digest})
	}
	signed := p.sign(good())
	if _, err := ParseChannel(signed, p.public(), 3); err != nil {
		t.Fatal(err)
	}
	unknown := good()
	unknown["added_later"] = map[string]any{"a": 1}
	if channel, err := ParseChannel(p.sign(unknown), p.public(), 0); err != nil || channel.Serial != 3 {
		t.Errorf("an unknown field, which the pipeline's reader passes over: %v", err)
	}
	with := func(name string, value any) []byte {
		body := good()
		body[name] = value
		return p.sign(body)
	}
	stranger, _, _ := ed25519.GenerateKey(nil)
	other := newPublisher(t)
	other.key = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	text := string(signed)
	for name, known := range map[string]struct {
		data []byte
		key  ed25519.PublicKey
		min  int64
		err  error
	}{
		"empty":                 {nil, p.public(), 0, ErrChannel},
		"cut off":               {signed[:len(signed)-2], p.public(), 0, ErrChannel},
		"space added":           {[]byte(strings.Replace(text, `{"document":`, `{"document": `, 1)), p.public(), 0, ErrSignature},
		"field added outside":   {[]byte(strings.Replace(text, `}`+"\n", `,"x":1}`+"\n", 1)), p.public(), 0, ErrChannel},
		"changed":               {[]byte(strings.Replace(text, `"serial":3`, `"serial":4`, 1)), p.public(), 0, ErrSignature},
		"stranger's key":        {signed, stranger, 0, ErrSignature},
		"signed by another":     {other.sign(good()), p.public(), 0, ErrSignature},
		"replayed":              {signed, p.public(), 4, ErrReplayed},
		"too large":             {make([]byte, maxChannelDocumentBytes+1), p.public(), 0, ErrChannel},
		"a manifest":            {with("kind", "dwcp.bundle"), p.public(), 0, ErrChannel},
		"another format":        {with("format", 2), p.public(), 0, ErrChannel},
		"serial 0":              {with("serial", 0), p.public(), 0, ErrChannel},
		"a text for a serial":   {with("serial", "3"), p.public(), 0, ErrChannel},
		"no date":               {with("issued_at", "yesterday"), p.public(), 0, ErrChannel},
		"no regions":            {with("regions", nil), p.public(), 0, ErrChannel},
		"a share too large":     {with("regions", map[string]any{"us-east": regionBody("v1", nil, 10_001)}), p.public(), 0, ErrChannel},
		"no share":              {with("regions", map[string]any{"us-east": map[string]any{"champion": "v1"}}), p.public(), 0, ErrChannel},
		"an unlisted version":   {with("regions", map[string]any{"us-east": regionBody("v2", nil, 0)}), p.public(), 0, ErrChannel},
		"a version as a path":   {with("bundles", map[string]string{"v1": digest, "../v1": digest}), p.public(), 0, ErrChannel},
		"a digest that is none": {with("bundles", map[string]string{"v1": "abc"}), p.public(), 0, ErrChannel},
	} {
		if _, err := ParseChannel(known.data, known.key, known.min); !errors.Is(err, known.err) {
			t.Errorf("%s: %v, expected %v", name, err, known.err)
		}
	}
	for place := range signed { // no flip of a bit goes unnoticed
		flipped := append([]byte(nil), signed...)
		flipped[place] ^= 1
		if _, err := ParseChannel(flipped, p.public(), 0); err == nil {
			t.Fatalf("byte %d may be changed: %q", place, flipped)
		}
	}
}

func TestHTTPSource(t *testing.T) {
	p := newPublisher(t)
	p.champion(1, "v1")
	var mutex sync.Mutex
	asked := map[string]int{}
	trouble := http.HandlerFunc(nil)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mutex.Lock()
		defer mutex.Unlock()
		asked[r.URL.Path]++
		if trouble != nil {
			trouble(w, r)
			return
		}
		data, err := os.ReadFile(filepath.Join(p.home, filepath.FromSlash(r.URL.Path)))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		sum := sha256.Sum256(data)
		w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:4])+`"`)
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(data)))
	}))
	defer server.Close()
	source, err := NewHTTPSource(server.URL, &http.Client{Timeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	n := p.node(source, t.TempDir())
	poll := func() error { return n.updater.Poll(context.Background()) }
	for expected := uint64(0); expected < 3; expected++ {
		if err := poll(); err != nil || n.updater.Status().Unchanged != expected {
			t.Errorf("%v, %+v", err, n.updater.Status())
		}
	}
	if asked["/bundles/v1/model.dwcp"] != 1 || asked["/channel/channel.json"] != 3 {
		t.Errorf("asked for %v", asked)
	}
	n.expect(t, "v1", ReasonModel)

	p.champion(2, "v2")
	for name, known := range map[string]struct {
		handler http.HandlerFunc
		err     error
	}{
		"500":     {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, nil},
		"429":     {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) }, nil},
		"empty":   {func(http.ResponseWriter, *http.Request) {}, ErrChannel},
		"slow":    {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, os.ErrDeadlineExceeded},
		"rubbish": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1000)) }, ErrChannel},
		"endless": {func(w http.ResponseWriter, _ *http.Request) {
			for n := 0; n < 3; n++ {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}, ErrTooLarge},
		"broken off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte("a"))
		}, nil},
	} {
		mutex.Lock()
		trouble = known.handler
		mutex.Unlock()
		err := poll()
		if err == nil || known.err != nil && !errors.Is(err, known.err) && !os.IsTimeout(err) {
			t.Errorf("%s: %v", name, err)
		}
		n.expect(t, "v1", ReasonModel)
	}
	mutex.Lock()
	trouble = nil
	mutex.Unlock()
	if err := poll(); err != nil {
		t.Error(err)
	}
	n.expect(t, "v2", ReasonModel)

	server.Close()
	if err := poll(); err == nil {
		t.Error("a server that is down is no error")
	}
	n.expect(t, "v2", ReasonModel)
}

func TestRunPollsUntilItIsStopped(t *testing.T) {
	p := newPublisher(t)
	n := p.node(DirectorySource(p.home), t.TempDir())
	n.updater.config.Interval = time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() {
		n.updater.Run(ctx)
		close(stopped)
	}()
	eventually(t, "it polled again and again", func() bool { return n.updater.Status().Failed > 3 })
	p.champion(1, "v1")
	eventually(t, "it found the first release", func() bool { return n.updater.Status().Swaps == 1 })
	cancel()
	<-stopped
	n.expect(t, "v1", ReasonModel)
}

func TestASourceReadsNothingOutside(t *testing.T) {
	if _, _, err := DirectorySource(t.TempDir()).Read(context.Background(), "../secret", 10, ""); err == nil {
		t.Error("a path leads outside")
	}
	for _, address := range []string{"", "ftp://host/x", "http://", "host/path", "://"} {
		if _, err := NewHTTPSource(address, nil); err == nil {
			t.Errorf("%q is taken for an address", address)
		}
	}
}

func TestReleasesUnderLoadFailNoDecision(t *testing.T) {
	p := newPublisher(t)
	n := p.node(DirectorySource(p.home), t.TempDir())
	p.champion(1, "v1")
	if err := n.updater.Poll(context.Background()); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var group sync.WaitGroup
	for worker := 0; worker < 4; worker++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for {
				select {
				case <-done:
					return
				default:
				}
				if decision, err := n.decide(); err != nil || decision.Reason != ReasonModel {
					t.Errorf("%v, error %v", decision.Reason, err)
					return
				}
			}
		}()
	}
	for serial := int64(2); serial < 30; serial++ {
		p.champion(serial, fmt.Sprintf("v%d", serial%3))
		if serial%4 == 0 { // and some of them are bad
			p.write([]byte("cut"), "bundles", fmt.Sprintf("v%d", serial%3), modelName)
		}
		_ = n.updater.Poll(context.Background())
	}
	close(done)
	group.Wait()
	if status := n.updater.Status(); status.Swaps < 15 || status.Refused < 5 {
		t.Errorf("%+v", status)
	}
}

// Two models and their successors are all that a swap ever holds, whatever it takes to load them.
func TestMemoryOfSwapsIsBounded(t *testing.T) {
	path := os.Getenv("DWCP_BENCH_MODEL")
	if path == "" {
		path = "testdata/model.dwcp"
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	model, err := LoadBundle(data)
	if err != nil {
		t.Fatal(err)
	}
	p := newPublisher(t)
	sum := sha256.Sum256(data)
	n := p.node(DirectorySource(p.home), t.TempDir())
	n.updater.config.Load = func(data []byte) (Predictor, error) { return LoadBundle(data) }
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	most := uint64(0)
	for serial := int64(1); serial <= 20; serial++ {
		digest := p.bundle(model.Version(), map[string]any{
			"feature_names": []string{fmt.Sprint(serial)}, // another manifest, so another bundle
			"files":         map[string]any{modelName: map[string]any{"size_bytes": len(data), "sha256": hex.EncodeToString(sum[:])}},
		})
		p.write(data, "bundles", model.Version(), modelName)
		p.write(p.sign(channelBody(serial, regionBody(model.Version(), nil, 0), map[string]string{model.Version(): digest})),
			"channel", "channel.json")
		if err := n.updater.Poll(context.Background()); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&now)
		most = max(most, now.HeapAlloc-min(now.HeapAlloc, before.HeapAlloc))
	}
	runtime.GC()
	runtime.ReadMemStats(&now)
	t.Logf("a model file of %d bytes: at most %d bytes more of heap while swapping, %d after; %d bytes from the system",
		len(data), most, int64(now.HeapAlloc)-int64(before.HeapAlloc), now.Sys)
	if most > 64<<20 {
		t.Errorf("swapping took %d bytes of heap", most)
	}
	if swaps := n.updater.Status().Swaps; swaps != 20 {
		t.Errorf("%d swaps", swaps)
	}
}

func FuzzParseChannel(f *testing.F) {
	seed := sha256.Sum256([]byte("fuzz"))
	key := ed25519.NewKeyFromSeed(seed[:])
	public := key.Public().(ed25519.PublicKey)
	for _, document := range []string{
		`{}`, `{"kind":"dwcp.channel","format":1,"serial":1,"issued_at":"2026-06-01T12:00:00+00:00","regions":{},"bundles":{}}`,
		`{"kind":"dwcp.channel","format":1,"serial":1,"issued_at":"2026-06-01T12:00:00+00:00","regions":{"us-east":` +
			`{"champion":"v1","challenger":null,"share_buckets":0}},"bundles":{"v1":"` + strings.Repeat("0", 64) + `"}}`,
	} {
		f.Add([]byte(document))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		if channel, err := ParseChannel(document, public, 0); err == nil {
			t.Fatalf("what nobody signed is taken: %+v", channel)
		}
		// The signer may have been fooled: what it signed must be sound all the same.
		signed := []byte(fmt.Sprintf("{\"document\":%s,\"key_id\":%q,\"signature\":%q}\n", document, keyIDOf(public),
			base64.StdEncoding.EncodeToString(ed25519.Sign(key, document))))
		channel, err := ParseChannel(signed, public, 0)
		if err != nil {
			return
		}
		for region, state := range channel.Regions {
			for _, version := range []string{state.Champion, state.Challenger} {
				if version != "" && (!versionPattern.MatchString(version) || !digestPattern.MatchString(channel.Bundles[version])) {
					t.Fatalf("region %q names %q", region, version)
				}
			}
			if state.ShareBuckets < 0 || state.ShareBuckets > RolloutBuckets {
				t.Fatalf("region %q has a share of %d", region, state.ShareBuckets)
			}
		}
	})
}
