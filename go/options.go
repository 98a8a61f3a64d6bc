package selector

import "time"

// Option configures a selector.
type Option func(*CompressionSelectorML)

const (
	// DefaultCacheEntries is the size of the cache, about 200 bytes each.
	DefaultCacheEntries = 4_096
	// DefaultMaxModelAge is how long after its release a model is trusted.
	DefaultMaxModelAge = 90 * 24 * time.Hour

	lastGoodEntries = 4_096
)

// WithNodeID names the node. Rollout buckets are dealt by it, so it should not change.
func WithNodeID(nodeID string) Option {
	return func(selector *CompressionSelectorML) { selector.nodeID = nodeID }
}

// WithModel lets a model serve from the start, as champion of every bucket; an updater
// replaces it by what its channel says. A nil model, such as one whose error was
// passed over, counts as missing.
func WithModel(model Predictor) Option {
	return func(selector *CompressionSelectorML) {
		defer func() {
			if recover() != nil { // a nil inside of an interface
				selector.release.Store(&release{fault: ErrModelMissing})
			}
		}()
		selector.install(&release{champion: selector.served(model)})
	}
}

// WithHistory lets past transfers become features; without it every transfer is the
// node's first one.
func WithHistory(history *History) Option {
	return func(selector *CompressionSelectorML) { selector.extractor.History = history }
}

// WithCacheEntries sets how many answers are remembered, rounded up to a power of two.
func WithCacheEntries(entries int) Option {
	return func(selector *CompressionSelectorML) { selector.cache = newCache(entries) }
}

// WithMaxModelAge sets how long after the release of its channel document a model is
// trusted; 0 is for ever. Age counts from the signed date, not from the download, so
// that an old document that is served again and again does not stay young.
func WithMaxModelAge(age time.Duration) Option {
	return func(selector *CompressionSelectorML) { selector.maxModelAge = age }
}
