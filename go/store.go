package selector

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	mostShards      = 32
	leastShardLimit = 64
)

// table keeps values of type V by name, for any number of goroutines, and holds no
// more than its limit: a new name takes the place of one that was not used for a
// while (CLOCK, second chance). It is split by name so that names seldom contend.
type table[V any] struct {
	seed   maphash.Seed
	shards []shard[V]
}

type shard[V any] struct {
	mutex  sync.RWMutex
	places map[string]int // where in slots a name is
	slots  []slot[V]
	limit  int
	hand   int // the next slot that may have to go
}

type slot[V any] struct {
	name  string
	value V
	used  uint32 // atomic; 1 if the name was asked for since the hand passed
}

func newTable[V any](limit int) *table[V] {
	shards := 1
	for shards < mostShards && limit/(2*shards) >= leastShardLimit {
		shards *= 2
	}
	made := &table[V]{seed: maphash.MakeSeed(), shards: make([]shard[V], shards)}
	for n := range made.shards {
		made.shards[n].places = make(map[string]int)
		made.shards[n].limit = limit / shards
	}
	return made
}

func (t *table[V]) shard(name string) *shard[V] {
	return &t.shards[maphash.String(t.seed, name)&uint64(len(t.shards)-1)]
}

// get copies the value of name to value, and says whether there is one.
func (t *table[V]) get(name string, value *V) bool {
	s := t.shard(name)
	s.mutex.RLock()
	defer s.mutex.RUnlock()
	place, found := s.places[name]
	if found {
		kept := &s.slots[place]
		*value = kept.value
		if atomic.LoadUint32(&kept.used) == 0 { // a store would take the cache line from other readers
			atomic.StoreUint32(&kept.used, 1)
		}
	}
	return found
}

// update lets change work on the value of name, which is initial where there was none.
func (t *table[V]) update(name string, initial, observed *V, change func(value, observed *V)) {
	s := t.shard(name)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	place, found := s.places[name]
	if found {
		atomic.StoreUint32(&s.slots[place].used, 1)
	} else {
		place = s.claim()
		s.slots[place] = slot[V]{name: strings.Clone(name), value: *initial}
		s.places[s.slots[place].name] = place
	}
	change(&s.slots[place].value, observed)
}

// claim is the place of a new slot: another one while there is room, else that of the
// next name which was not used since the hand last passed.
func (s *shard[V]) claim() int {
	if len(s.slots) < s.limit {
		s.slots = append(s.slots, slot[V]{})
		return len(s.slots) - 1
	}
	for {
		place := s.hand
		s.hand = (s.hand + 1) % len(s.slots)
		if atomic.SwapUint32(&s.slots[place].used, 0) == 0 {
			delete(s.places, s.slots[place].name)
			return place
		}
	}
}

// len is how many names are kept.
func (t *table[V]) len() int {
	total := 0
	for n := range t.shards {
		s := &t.shards[n]
		s.mutex.RLock()
		total += len(s.slots)
		s.mutex.RUnlock()
	}
	return total
}
