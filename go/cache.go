package selector

import (
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
)

// cache remembers what a model answered to a feature vector (seed §4.3), in a table of
// fixed size in which a newer answer takes an older one's slot. An entry holds for
// one loaded model and until a peer's link changes its kind (§7.2). It allocates nothing.
type cache struct {
	slots []cacheSlot // a power of two of them
	epoch atomic.Uint64
	peers links
}

type cacheSlot struct {
	mutex         sync.Mutex
	model, epoch  uint64 // model 0: empty
	features      Features
	probabilities [CandidateCount]float32
}

func newCache(entries int) *cache {
	return &cache{slots: make([]cacheSlot, powerOfTwo(entries)), peers: newLinks()}
}

// observe notes a peer's kind of link; if it is another one than before, everything
// is forgotten.
func (c *cache) observe(peer uint64, link LinkType) {
	if c.peers.changed(peer, link) {
		c.epoch.Add(1)
	}
}

func (c *cache) get(model uint64, features *Features, probabilities *[CandidateCount]float32) bool {
	slot := c.slot(features)
	epoch := c.epoch.Load()
	slot.mutex.Lock()
	defer slot.mutex.Unlock()
	if slot.model != model || slot.epoch != epoch || slot.features != *features {
		return false
	}
	*probabilities = slot.probabilities
	return true
}

func (c *cache) put(model uint64, features *Features, probabilities *[CandidateCount]float32) {
	slot := c.slot(features)
	epoch := c.epoch.Load()
	slot.mutex.Lock()
	defer slot.mutex.Unlock()
	slot.model, slot.epoch, slot.features, slot.probabilities = model, epoch, *features, *probabilities
}

// slot deals vectors to slots by FNV-1a over words; equality is checked on the vector itself.
func (c *cache) slot(features *Features) *cacheSlot {
	hash := uint64(14695981039346656037)
	for _, value := range features {
		hash = (hash ^ uint64(math.Float32bits(value))) * 1099511628211
	}
	return &c.slots[(hash^hash>>32)&uint64(len(c.slots)-1)]
}

// lastGood remembers, for as many pairs of peer and object as it has slots, what
// was last decided without a fallback, for the kind of link that it was decided on.
type lastGood struct {
	seed  maphash.Seed
	slots []atomic.Uint64 // the pair's hash, its last byte replaced by link and choice
}

func newLastGood(entries int) *lastGood {
	return &lastGood{seed: maphash.MakeSeed(), slots: make([]atomic.Uint64, powerOfTwo(entries))}
}

func (l *lastGood) put(pair uint64, link LinkType, choice Choice) {
	l.slots[pair>>8&uint64(len(l.slots)-1)].Store(tagged(pair, link)<<4 | uint64(choice) | 8)
}

func (l *lastGood) get(pair uint64, link LinkType) (Choice, bool) {
	found := l.slots[pair>>8&uint64(len(l.slots)-1)].Load()
	return Choice(found & 7), found>>4 == tagged(pair, link)
}

// tagged leaves room for a choice: the upper bits of the pair's hash, then the link.
func tagged(pair uint64, link LinkType) uint64 { return pair>>8<<4 | uint64(link&15) }

// pairOf is a hash of peer and object.
func pairOf(peer, object uint64) uint64 {
	return (peer ^ object*0x9e3779b97f4a7c15) * 0xff51afd7ed558ccd
}

// links remembers peers' kinds of link, for as many peers as it has slots. A peer that
// lost its slot to another one counts as new.
type links struct{ slots []atomic.Uint64 }

const linkSlots = 1024

func newLinks() links { return links{make([]atomic.Uint64, linkSlots)} }

func (l links) changed(peer uint64, link LinkType) bool {
	slot, now := &l.slots[peer>>8&(linkSlots-1)], peer>>8<<8|uint64(link)
	before := slot.Load()
	if before == now {
		return false
	}
	slot.Store(now)
	return before>>8 == now>>8
}

func powerOfTwo(atLeast int) int {
	size := 1
	for size < atLeast && size < 1<<20 {
		size *= 2
	}
	return size
}
