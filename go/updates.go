package selector

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	channelName = "channel/channel.json"
	serialName  = "serial"

	// DefaultPollInterval is how often a channel document is asked for.
	DefaultPollInterval = time.Minute
)

// UpdaterConfig says where a node's models come from. Only Load and Interval have defaults.
type UpdaterConfig struct {
	Source    Source            // where the channel document and bundles are published
	PublicKey ed25519.PublicKey // the trusted key, had by another way than the source
	Region    Region            // the node's
	StateDir  string            // of this node alone: keeps the last good release and the highest serial seen
	Load      LoadModel         // default: LoadBundle
	Interval  time.Duration     // default: DefaultPollInterval
}

// Updater keeps a selector's models those that the channel names. What does not verify
// is refused, counted and reported, and what serves goes on serving.
type Updater struct {
	selector *CompressionSelectorML
	config   UpdaterConfig

	mutex    sync.Mutex // one poll at a time
	followed []byte     // the last document that was followed in full
	etag     string     // and its ETag
	serial   int64      // the highest seen
	serving  map[string]*servedModel

	statusMutex sync.Mutex
	status      UpdateStatus
}

// UpdateStatus is a snapshot of what an updater did since it was made.
type UpdateStatus struct {
	Serial    int64     `json:"serial"`     // the highest seen
	Polls     uint64    `json:"polls"`      // how often the channel was asked
	Unchanged uint64    `json:"unchanged"`  // it had nothing new
	Swaps     uint64    `json:"swaps"`      // a newer release began to serve
	Refused   uint64    `json:"refused"`    // a document or bundle did not verify
	Failed    uint64    `json:"failed"`     // something could not be read or written
	LastError string    `json:"last_error"` // of the last poll; empty if it went well
	LastPoll  time.Time `json:"last_poll"`
}

// NewUpdater makes an updater and lets the last good release of StateDir serve, verified
// again, so that a node starts without a network. A state that is missing or damaged
// is no error: it shows in Status, and the next poll replaces it.
func NewUpdater(selector *CompressionSelectorML, config UpdaterConfig) (*Updater, error) {
	switch {
	case selector == nil || config.Source == nil:
		return nil, errors.New("an updater needs a selector and a source")
	case len(config.PublicKey) != ed25519.PublicKeySize:
		return nil, errors.New("an updater needs the Ed25519 key that bundles are signed with: see ParsePublicKey")
	case config.Region == RegionUnknown:
		return nil, errors.New("an updater needs the node's region: see ParseRegion for the contract's words")
	case config.StateDir == "":
		return nil, errors.New("an updater needs a directory for its state: without it a restart would take a replayed document")
	}
	if err := os.MkdirAll(config.StateDir, 0o755); err != nil {
		return nil, fmt.Errorf("the updater's state cannot be kept: %w", err)
	}
	if config.Load == nil {
		config.Load = func(data []byte) (Predictor, error) { return LoadBundle(data) }
	}
	if config.Interval <= 0 {
		config.Interval = DefaultPollInterval
	}
	updater := &Updater{selector: selector, config: config, serving: map[string]*servedModel{}}
	updater.note(updater.restore())
	return updater, nil
}

// Run polls at once and then every interval, give or take a tenth so that nodes do not
// ask in step, until ctx is done.
func (u *Updater) Run(ctx context.Context) {
	for {
		_ = u.Poll(ctx) // Status tells
		wait := time.Duration((0.9 + 0.2*rand.Float64()) * float64(u.config.Interval))
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// Poll asks the channel once and returns what was wrong, if anything was. Errors wrap
// ErrSignature, ErrReplayed, ErrChannel or ErrBundle if something was refused.
func (u *Updater) Poll(ctx context.Context) error {
	u.mutex.Lock()
	defer u.mutex.Unlock()
	unchanged, err := u.poll(ctx)
	u.count(func(status *UpdateStatus) {
		status.Polls++
		status.LastPoll = time.Now()
		if unchanged {
			status.Unchanged++
		}
	})
	u.note(err)
	return err
}

// Status returns a snapshot.
func (u *Updater) Status() UpdateStatus {
	u.statusMutex.Lock()
	defer u.statusMutex.Unlock()
	return u.status
}

func (u *Updater) poll(ctx context.Context) (unchanged bool, err error) {
	data, etag, err := u.config.Source.Read(ctx, channelName, maxChannelDocumentBytes, u.etag)
	if errors.Is(err, ErrUnchanged) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if bytes.Equal(data, u.followed) {
		return true, nil
	}
	channel, err := ParseChannel(data, u.config.PublicKey, u.serial)
	if err != nil {
		return false, err
	}
	// Before anything is made of the document: what was seen once is never forgotten, whatever fails next.
	if err := u.remember(channel.Serial); err != nil {
		return false, err
	}
	state, err := u.follow(ctx, u.config.Source, channel)
	if err == nil {
		err = u.keep(data, state)
	}
	if err == nil {
		u.followed, u.etag = data, etag
	}
	return false, err
}

// follow lets serve what the channel names for the region. A champion that cannot be
// had changes nothing; a challenger that cannot be had does not keep the champion from
// serving. While there is an error the next poll tries again.
func (u *Updater) follow(ctx context.Context, source Source, channel *Channel) (RegionState, error) {
	state := channel.Regions[u.config.Region.String()] // a region that is not named follows the rules
	next := &release{serial: channel.Serial, shareBuckets: state.ShareBuckets}
	if age := u.selector.maxModelAge; age > 0 {
		next.expiresAtNs = channel.IssuedAt.Add(age).UnixNano()
	}
	loaded := map[string]*servedModel{}
	get := func(version string) (*servedModel, error) {
		if version == "" {
			return nil, nil
		}
		digest := channel.Bundles[version]
		if model, found := u.serving[digest]; found {
			loaded[digest] = model
			return model, nil
		}
		model, err := u.load(ctx, source, version, digest)
		if err == nil {
			loaded[digest] = model
		}
		return model, err
	}
	var err error
	if next.champion, err = get(state.Champion); err != nil {
		return state, fmt.Errorf("serial %d, champion: %w", channel.Serial, err)
	}
	if next.challenger, err = get(state.Challenger); err != nil {
		err = fmt.Errorf("serial %d, challenger: %w", channel.Serial, err)
	}
	u.selector.install(next)
	u.serving = loaded
	u.count(func(status *UpdateStatus) { status.Swaps++ })
	return state, err
}

// load reads and verifies a bundle and keeps it on disk.
func (u *Updater) load(ctx context.Context, source Source, version, digest string) (*servedModel, error) {
	model, files, err := fetchBundle(ctx, source, u.config.PublicKey, version, digest, u.config.Load)
	if err != nil {
		return nil, err
	}
	for name, data := range files {
		if err := writeWhole(filepath.Join(u.config.StateDir, "bundles", version, name), data); err != nil {
			return nil, err
		}
	}
	return u.selector.served(model), nil
}

// keep makes the document the last good one on disk, and removes the bundles of older ones.
func (u *Updater) keep(document []byte, state RegionState) error {
	if err := writeWhole(filepath.Join(u.config.StateDir, filepath.FromSlash(channelName)), document); err != nil {
		return err
	}
	bundles := filepath.Join(u.config.StateDir, "bundles")
	entries, err := os.ReadDir(bundles)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		if name := entry.Name(); name != state.Champion && name != state.Challenger {
			err = errors.Join(err, os.RemoveAll(filepath.Join(bundles, name)))
		}
	}
	return err
}

// restore reads the highest serial seen and lets the last good release serve.
func (u *Updater) restore() error {
	text, err := readPlainFile(filepath.Join(u.config.StateDir, serialName), 32)
	if err == nil {
		u.serial, err = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	}
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	kept := DirectorySource(u.config.StateDir)
	document, _, readErr := kept.Read(context.Background(), channelName, maxChannelDocumentBytes, "")
	if errors.Is(readErr, os.ErrNotExist) {
		return err
	}
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	// The last good document may be older than one that was seen and could not be followed.
	channel, parseErr := ParseChannel(document, u.config.PublicKey, 0)
	if parseErr != nil {
		return errors.Join(err, parseErr)
	}
	u.serial = max(u.serial, channel.Serial)
	u.count(func(status *UpdateStatus) { status.Serial = u.serial })
	_, followErr := u.follow(context.Background(), kept, channel)
	return errors.Join(err, followErr)
}

// remember keeps the highest serial seen, so that no restart takes a replay.
func (u *Updater) remember(serial int64) error {
	if serial == u.serial {
		return nil
	}
	if err := writeWhole(filepath.Join(u.config.StateDir, serialName), []byte(strconv.FormatInt(serial, 10)+"\n")); err != nil {
		return err
	}
	u.serial = serial
	u.count(func(status *UpdateStatus) { status.Serial = serial })
	return nil
}

func (u *Updater) count(change func(*UpdateStatus)) {
	u.statusMutex.Lock()
	defer u.statusMutex.Unlock()
	change(&u.status)
}

// note reports err. While nothing ever served, decisions say whether a model is
// missing or was refused.
func (u *Updater) note(err error) {
	if now := u.selector.release.Load(); now.fault != nil && notVerified(err) {
		u.selector.release.Store(&release{fault: fmt.Errorf("%w: %w", ErrModelInvalid, err)})
	}
	u.count(func(status *UpdateStatus) {
		switch {
		case err == nil:
			status.LastError = ""
			return
		case notVerified(err):
			status.Refused++
		default:
			status.Failed++
		}
		status.LastError = err.Error()
	})
}

// notVerified tells what did not verify from what could not be read.
func notVerified(err error) bool {
	return errors.Is(err, ErrSignature) || errors.Is(err, ErrReplayed) || errors.Is(err, ErrChannel) ||
		errors.Is(err, ErrBundle) || errors.Is(err, ErrTooLarge)
}

// writeWhole replaces a file by one rename, so that a crash leaves the old one or the new one.
func writeWhole(name string, data []byte) (err error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(name), "."+path.Base(name)+".")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name()) // it may be gone already
		}
	}()
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	err = errors.Join(err, file.Close())
	if err != nil {
		return err
	}
	return os.Rename(file.Name(), name)
}
