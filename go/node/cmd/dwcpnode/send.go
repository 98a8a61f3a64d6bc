package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	selector "dwcp.internal/selector"
	"dwcp.internal/selector/engines"
	"dwcp.internal/selector/node"
)

// settings are send's flags.
type settings struct {
	to, objects, channel, key, state, nodeID, region, zone string
	metrics, org, bucket, summary                          string
	linkType                                               string
	rateMbps, measure                                      float64
	rtt, pause, poll, settle                               time.Duration
	rounds                                                 int
}

func settingsOf(arguments []string) (*settings, error) {
	s := &settings{}
	flags := flag.NewFlagSet("dwcpnode send", flag.ContinueOnError)
	flags.StringVar(&s.to, "to", "127.0.0.1:7400", "`address` of the peer")
	flags.StringVar(&s.objects, "objects", "", "`directory` of <type>/<object>/<version> (needed)")
	flags.StringVar(&s.channel, "channel", "", "`directory` or http(s) address that has channel/ and bundles/ (needed)")
	flags.StringVar(&s.key, "key", "", "`file` of the public key that releases are signed with (needed)")
	flags.StringVar(&s.state, "state", "", "`directory` of this node alone: history, last good release, metrics not sent yet (needed)")
	flags.StringVar(&s.nodeID, "node-id", hostName()+"-sender", "`name` of this node, which should not change: rollout is dealt by it")
	flags.StringVar(&s.region, "region", selector.RegionUSEast.String(), "`region` of this node, which says whose release it follows")
	flags.StringVar(&s.zone, "zone", "a", "availability `zone` that is logged")
	flags.StringVar(&s.metrics, "metrics", "", "InfluxDB's http(s) address, or a `file` for line protocol; default metrics.lp in the state. The token is taken from DWCP_INFLUX_TOKEN")
	flags.StringVar(&s.org, "org", "dwcp", "InfluxDB's `organisation`")
	flags.StringVar(&s.bucket, "bucket", selector.DefaultBucket, "InfluxDB's `bucket`")
	flags.StringVar(&s.summary, "summary", "", "`file` for the summary in JSON")
	flags.StringVar(&s.linkType, "link", selector.LinkTypeDC.String(), "`kind` of the link: dc, metro or wan")
	flags.Float64Var(&s.rateMbps, "mbps", 0, "make the link no faster than so many `Mbit/s`")
	flags.DurationVar(&s.rtt, "rtt", 0, "add so much `time` to each round trip")
	flags.Float64Var(&s.measure, "measure", 0, "least `share` of transfers that is measured with every engine, afterwards on an idle core; default 0.001")
	flags.DurationVar(&s.pause, "pause", 0, "`time` between transfers")
	flags.DurationVar(&s.poll, "poll", time.Minute, "`time` between looks at the channel")
	flags.DurationVar(&s.settle, "settle", 20*time.Second, "`time` that full measurements may take after the last transfer")
	flags.IntVar(&s.rounds, "rounds", 1, "how `often` all versions are sent; 0: until interrupted")
	if err := parse(flags, arguments); err != nil {
		return nil, err
	}
	for name, value := range map[string]string{"objects": s.objects, "channel": s.channel, "key": s.key, "state": s.state} {
		if value == "" {
			return nil, fmt.Errorf("-%s is needed; -h lists the flags", name)
		}
	}
	if s.metrics == "" {
		s.metrics = filepath.Join(s.state, "metrics.lp")
	}
	return s, nil
}

// sending is everything that a run of send holds open.
type sending struct {
	*settings
	decider     *selector.CompressionSelectorML
	updater     *selector.Updater
	history     *selector.History
	logger      *selector.MetricsLogger
	measurement *selector.FullMeasurement
	sender      *node.Sender

	mutex   sync.Mutex // transfers are told of by the sender and by the measurement
	summary *node.Summary
}

func send(ctx context.Context, arguments []string) error {
	settings, err := settingsOf(arguments)
	if err != nil {
		return err
	}
	versions, err := node.FindVersions(settings.objects)
	if err != nil {
		return err
	}
	run := &sending{settings: settings, summary: node.NewSummary()}
	if err := run.open(ctx); err != nil {
		return errors.Join(err, run.close())
	}
	watching, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		run.watch(watching)
	}()
	err = run.sendAll(ctx, versions)
	run.settleMeasurements(ctx)
	stop()
	<-watched
	err = errors.Join(err, run.close())
	run.summary.Finish()
	fmt.Print(run.summary.Text())
	if settings.summary != "" {
		text, jsonErr := json.MarshalIndent(run.summary, "", " ")
		err = errors.Join(err, jsonErr, os.WriteFile(settings.summary, append(text, '\n'), 0o644))
	}
	return err
}

// open makes everything ready, and asks the channel once before the first decision.
func (s *sending) open(ctx context.Context) (err error) {
	region, linkType := selector.ParseRegion(s.region), selector.ParseLinkType(s.linkType)
	if region == selector.RegionUnknown || linkType == selector.LinkTypeUnknown {
		return fmt.Errorf("the contract knows no region %q or no link %q", s.region, s.linkType)
	}
	key, err := readKey(s.key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.state, 0o755); err != nil {
		return fmt.Errorf("the node's state cannot be kept: %w", err)
	}
	if s.history, err = selector.OpenHistory(s.historyPath(), selector.Limits{}); err != nil {
		fmt.Println("the node starts without its past:", err)
	}
	s.decider = selector.New(selector.WithNodeID(s.nodeID), selector.WithHistory(s.history))
	source, err := sourceOf(s.channel)
	if err != nil {
		return err
	}
	if s.updater, err = selector.NewUpdater(s.decider, selector.UpdaterConfig{
		Source: source, PublicKey: key, Region: region, StateDir: filepath.Join(s.state, "releases"),
	}); err != nil {
		return err
	}
	s.look(ctx)
	url, client, err := node.MetricsTo(s.metrics)
	if err != nil {
		return err
	}
	if s.logger, err = selector.NewMetricsLogger(selector.LoggerConfig{
		URL: url, Client: client, Org: s.org, Bucket: s.bucket, Token: os.Getenv("DWCP_INFLUX_TOKEN"),
		NodeID: s.nodeID, Zone: s.zone, SpillDir: filepath.Join(s.state, "spill"),
	}); err != nil {
		return err
	}
	codecs := &engines.Engines{}
	if s.measurement, err = selector.NewFullMeasurement(selector.FullMeasurementConfig{
		Engines: codecs, Logger: s.logger, History: s.history, MinShare: s.measure, MaxShare: max(s.measure, 0.2),
	}); err != nil {
		return err
	}
	s.sender, err = node.NewSender(ctx, node.SenderConfig{
		Link:   node.LinkConfig{Address: s.to, NodeID: s.nodeID, RateMbps: s.rateMbps, RTT: s.rtt},
		Region: region, LinkType: linkType, StateDir: s.state,
		Selector: s.decider, History: s.history, Measurement: s.measurement, Engines: codecs, Say: s.tell,
	})
	if s.sender == nil {
		return err
	}
	if err != nil {
		fmt.Println("the node starts anew with this peer:", err)
	}
	link := s.sender.Link()
	libzstd, liblz4 := engines.Versions()
	fmt.Printf("%s sends to %s: %.0f Mbit/s, round trip %.2f ms; libzstd %s, liblz4 %s\n",
		s.nodeID, link.PeerID, link.BandwidthMbps, link.RTTMs, libzstd, liblz4)
	return nil
}

func (s *sending) historyPath() string { return filepath.Join(s.state, "history") }

func (s *sending) tell(transfer *node.Transfer) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.summary.Add(transfer)
	fmt.Println(transfer.Line())
}

// patience is how long a transfer may go on after an interrupt.
const patience = 5 * time.Second

// sendAll sends every version, round after round. A peer that is gone for good ends it;
// anything else that fails is told of, and the next version follows.
func (s *sending) sendAll(ctx context.Context, versions []node.Version) error {
	// Whoever interrupts waits for the transfer under way, but not for long.
	sending, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(patience, cancel) })()
	failed := 0
	for round := 0; s.rounds == 0 || round < s.rounds; round++ {
		for place, version := range versions {
			err := s.sender.Send(sending, version)
			if err != nil {
				failed++
			}
			if errors.Is(err, node.ErrGone) {
				s.summary.NotTried = len(versions) - place - 1 + max(s.rounds-round-1, 0)*len(versions)
				return fmt.Errorf("%w; %d transfers were not sent", err, s.summary.NotTried+failed)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(s.pause):
			}
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d transfers were not sent: see their lines", failed)
	}
	return nil
}

// watch asks the channel again and again, and tells of what changes.
func (s *sending) watch(ctx context.Context) {
	ticker := time.NewTicker(s.poll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.look(ctx)
		}
	}
}

// look asks the channel once.
func (s *sending) look(ctx context.Context) {
	before := s.updater.Status()
	err := s.updater.Poll(ctx)
	if ctx.Err() != nil {
		return
	}
	now := s.updater.Status()
	serving := s.decider.Counters().ModelVersion
	if serving == "" {
		serving = "no model, the rules"
	}
	if now.Swaps != before.Swaps || now.Polls == 1 {
		fmt.Printf("channel: serial %d, %s decides\n", now.Serial, serving)
	}
	if err != nil && (now.LastError != before.LastError || now.Polls == 1) {
		fmt.Printf("channel: %v; %s goes on deciding\n", err, serving)
	}
}

// settleMeasurements waits for the full measurements that are under way.
func (s *sending) settleMeasurements(ctx context.Context) {
	until := time.Now().Add(s.settle)
	for time.Now().Before(until) && ctx.Err() == nil {
		if now := s.measurement.Counters(); now.Measured+now.Abandoned+now.Failed >= now.Chosen {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// close keeps what there is to keep, in order: measurements log, and the history has them.
func (s *sending) close() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if s.sender != nil {
		err = s.sender.Close()
	}
	if s.measurement != nil {
		err = errors.Join(err, s.measurement.Close(ctx))
		s.summary.Measurement = s.measurement.Counters()
	}
	if s.logger != nil {
		err = errors.Join(err, s.logger.Close(ctx))
		s.summary.Logger = s.logger.Counters()
		if problem := s.logger.LastError(); problem != "" {
			fmt.Println("metrics:", problem)
		}
	}
	if s.history != nil {
		err = errors.Join(err, s.history.SaveFile(s.historyPath()))
	}
	if s.updater != nil {
		s.summary.Updates = s.updater.Status()
	}
	return err
}

func readKey(path string) (ed25519.PublicKey, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the public key cannot be read: %w", err)
	}
	key, err := selector.ParsePublicKey(pem)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

func sourceOf(where string) (selector.Source, error) {
	if strings.HasPrefix(where, "http://") || strings.HasPrefix(where, "https://") {
		return selector.NewHTTPSource(where, nil)
	}
	return selector.DirectorySource(where), nil
}
