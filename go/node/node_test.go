package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	selector "dwcp.internal/selector"
	"dwcp.internal/selector/engines"
)

// The node with the pipeline's channel and contract is tested in tests/node/test_go_node.py.

func text(size int, seed int64) []byte {
	random := rand.New(rand.NewSource(seed))
	var out bytes.Buffer
	for out.Len() < size {
		fmt.Fprintf(&out, "%d ", random.Intn(300))
	}
	return out.Bytes()[:size]
}

func write(t *testing.T, root, path string, data []byte) {
	t.Helper()
	path = filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func serve(t *testing.T, store string) string {
	t.Helper()
	held, err := OpenHeld(store)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	receiver := &Receiver{NodeID: "receiver", Held: held, MaxPayloadBytes: 1 << 20}
	go func() { done <- receiver.Serve(ctx, listener) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

// TestEveryTransferIsMeasuredAndToldOf sends two rounds with every transfer measured on a
// core that always counts as idle.
func TestEveryTransferIsMeasuredAndToldOf(t *testing.T) {
	objects, state := t.TempDir(), t.TempDir()
	for version := int64(0); version < 3; version++ {
		write(t, objects, fmt.Sprintf("logs/app/%d.log", version), append(text(300_000, 1), text(5_000, version)...))
		write(t, objects, fmt.Sprintf("media/clip/%d", version), text(40_000, version))
	}
	versions, err := FindVersions(objects)
	if err != nil {
		t.Fatal(err)
	}
	url, client, err := MetricsTo(filepath.Join(state, "metrics.lp"))
	if err != nil {
		t.Fatal(err)
	}
	logger, err := selector.NewMetricsLogger(selector.LoggerConfig{URL: url, Client: client, NodeID: "sender", Zone: "a", SpillDir: filepath.Join(state, "spill")})
	if err != nil {
		t.Fatal(err)
	}
	history, codecs := selector.NewHistory(selector.Limits{}), &engines.Engines{}
	measurement, err := selector.NewFullMeasurement(selector.FullMeasurementConfig{
		Engines: codecs, Logger: logger, History: history, MinShare: 1, MaxShare: 1, MaxRuns: 2, IsIdle: func() bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	var mutex sync.Mutex
	summary := NewSummary()
	var lines []string
	var last *selector.Record
	ctx := context.Background()
	sender, err := NewSender(ctx, SenderConfig{
		Link:   LinkConfig{Address: serve(t, t.TempDir()), NodeID: "sender", RateMbps: 500, RTT: time.Millisecond},
		Region: selector.RegionUSEast, LinkType: selector.LinkTypeMetro, StateDir: state,
		Selector: selector.New(selector.WithHistory(history)), History: history, Measurement: measurement, Engines: codecs,
		Say: func(transfer *Transfer) {
			mutex.Lock()
			defer mutex.Unlock()
			summary.Add(transfer)
			if !transfer.Measured {
				last = transfer.Record
			}
			lines = append(lines, transfer.Line())
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if link := sender.Link(); link.RTTMs < 1 || link.BandwidthMbps < 200 || link.BandwidthMbps > 600 {
		t.Errorf("a link of 500 Mbit/s and 1 ms was measured as %.0f Mbit/s and %.2f ms", link.BandwidthMbps, link.RTTMs)
	}
	for round := 0; round < 2; round++ {
		for _, version := range versions {
			if err := sender.Send(ctx, version); err != nil {
				t.Fatal(err)
			}
		}
	}
	for measurement.Counters().Measured < 12 && measurement.Counters().Failed == 0 {
		time.Sleep(time.Millisecond)
	}
	// The node learned from them: the next decision is by the object's own past.
	if err := sender.Send(ctx, versions[0]); err != nil {
		t.Fatal(err)
	}
	closing, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := errors.Join(measurement.Close(closing), logger.Close(closing), sender.Close()); err != nil {
		t.Fatal(err)
	}
	mutex.Lock()
	defer mutex.Unlock()
	summary.Finish()
	if source := last.Decision.Features[selector.FeatureHistorySource]; source != 2 {
		t.Errorf("after full measurements history_source is %v", source)
	}
	if summary.Sent != 13 || summary.FullyMeasured < 12 || summary.NotSent != 0 || logger.Counters().Sent != 13 {
		t.Errorf("%+v, %+v", summary, logger.Counters())
	}
	if summary.OracleMs > summary.ChosenMs || summary.OracleMs > summary.ZstdMs || summary.OracleMs <= 0 {
		t.Errorf("the cheapest took %.2f ms, what was chosen %.2f, zstd %.2f", summary.OracleMs, summary.ChosenMs, summary.ZstdMs)
	}
	said := strings.Join(lines, "\n")
	for _, expected := range []string{"measured: hde ", "; chose ", "against zstd", "no model is loaded", "logs-app", " wire + "} {
		if !strings.Contains(said, expected) {
			t.Errorf("%q is not in\n%s", expected, said)
		}
	}
	if _, found := history.LastProbe("logs-app"); !found {
		t.Error("no probe of logs-app was kept")
	}
}

func scanned(t *testing.T, payload, previous []byte) (found, wanted [2]float64) {
	t.Helper()
	version := &selector.Version{Payload: previous, Blocks: indexOf(previous)}
	scan, err := selector.ScanShares(context.Background(), selector.Memory(payload), int64(len(payload)), version.Blocks)
	if err != nil {
		t.Fatal(err)
	}
	found[0], found[1] = shares(payload, version)
	return found, [2]float64{scan.KnownShare, scan.ZeroShare}
}

func TestSharesAreThoseOfAFullScan(t *testing.T) {
	random := rand.New(rand.NewSource(2))
	for round := 0; round < 60; round++ { // fewer blocks than are hashed at most
		previous := text(1+random.Intn((leastHashed-4)*blockBytes), int64(round))
		payload := append([]byte(nil), previous...)
		switch round % 4 {
		case 0:
			payload = append(text(blockBytes, 99), payload...) // moved
		case 1:
			payload = append(payload, make([]byte, 3*blockBytes+random.Intn(blockBytes))...)
		case 2:
			payload = payload[:len(payload)/2+1]
		}
		for n := random.Intn(4); n > 0; n-- {
			payload[random.Intn(len(payload))] ^= 1
		}
		if found, wanted := scanned(t, payload, previous); math.Abs(found[0]-wanted[0]) > 1e-12 || found[1] != wanted[1] {
			t.Errorf("round %d: %v, by hashing all %v", round, found, wanted)
		}
	}
}

func TestSharesOfAMovedPayloadAreEstimated(t *testing.T) {
	previous := text(500*blockBytes, 1)
	payload := append(text(blockBytes, 2), previous[:400*blockBytes]...) // all moved
	payload = append(payload, text(400*blockBytes, 3)...)                // all new
	found, wanted := scanned(t, payload, previous)
	if math.Abs(found[0]-wanted[0]) > 0.05 || wanted[0] < 0.49 || wanted[0] > 0.51 {
		t.Errorf("%v, by hashing all %v", found, wanted)
	}
}

func TestVersionsAreInTheirNaturalOrderObjectByObject(t *testing.T) {
	root := t.TempDir()
	for _, path := range []string{"logs/a/10.txt", "logs/a/9.txt", "logs/a/x", "other/b/1"} {
		write(t, root, path, []byte("x"))
	}
	versions, err := FindVersions(root)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, version := range versions {
		found = append(found, fmt.Sprintf("%s %d %s", version.ObjectID, version.Number, filepath.Base(version.Path)))
	}
	if got, want := strings.Join(found, ", "), "logs-a 0 9.txt, other-b 0 1, logs-a 1 10.txt, logs-a 2 x"; got != want {
		t.Errorf("%s, not %s", got, want)
	}
}

// TestAReceiverSurvivesAnyPeer talks nonsense to a receiver; it hangs up, and serves the next one.
func TestAReceiverSurvivesAnyPeer(t *testing.T) {
	address := serve(t, t.TempDir())
	message := func(what kind, text string) []byte {
		return append(append(binary.LittleEndian.AppendUint32(nil, uint32(len(text))), byte(what)), text...)
	}
	greeting := message(kindHello, `{"protocol":1,"node_id":"x"}`)
	with := func(parts ...[]byte) []byte { return bytes.Join(append([][]byte{greeting}, parts...), nil) }
	for name, sent := range map[string][]byte{
		"http":             []byte("GET / HTTP/1.1\r\n\r\n"),
		"length":           {255, 255, 255, 255, 1},
		"no json":          message(kindHello, "{"),
		"other version":    message(kindHello, `{"protocol":2,"node_id":"x"}`),
		"unknown message":  with(message(99, "{}")),
		"too large":        with(message(kindOffer, `{"size_bytes":9000000000,"sent_bytes":1}`)),
		"negative":         with(message(kindOffer, `{"size_bytes":5,"sent_bytes":-1}`)),
		"padding":          with(message(kindPing, `{"padding_bytes":99999999999}`)),
		"broken off":       with(message(kindOffer, `{"size_bytes":5,"sent_bytes":5,"engine":"none"}`), []byte("123")),
		"unknown engine":   with(message(kindOffer, `{"size_bytes":5,"sent_bytes":5,"engine":"magic"}`), []byte("12345")),
		"another digest":   with(message(kindOffer, `{"size_bytes":5,"sent_bytes":5,"engine":"none","digest":"x"}`), []byte("12345")),
		"no zstd":          with(message(kindOffer, `{"size_bytes":5,"sent_bytes":5,"engine":"zstd","digest":"x"}`), []byte("12345")),
		"path as a name":   with(message(kindOffer, `{"object_id":"../../x","size_bytes":1,"sent_bytes":1,"engine":"none","digest":"`+digestOf([]byte("1"))+`"}`), []byte("1")),
		"base is not held": with(message(kindOffer, `{"size_bytes":5,"sent_bytes":5,"engine":"hde","base_digest":"x"}`), []byte("12345")),
	} {
		connection, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := connection.Write(sent); err != nil {
			t.Fatal(err)
		}
		if err := connection.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		_ = connection.SetReadDeadline(time.Now().Add(5 * time.Second))
		var answer bytes.Buffer
		if _, err := answer.ReadFrom(connection); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the receiver neither answers nor hangs up", name)
		}
		_ = connection.Close()
		if strings.Contains(name, "name") != strings.Contains(answer.String(), `"result":"held"`) {
			t.Errorf("%s is answered %q", name, answer.String())
		}
	}
	link, err := Connect(context.Background(), LinkConfig{Address: address, NodeID: "sender"})
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	if link.PeerID != "receiver" || math.IsNaN(link.RTTMs) || link.BandwidthMbps <= 0 {
		t.Errorf("%+v", link)
	}
}
