package maildir

import (
	"container/list"
	"sync"
)

// cache keeps listings between sessions, the last used ones, up to limit
// octets.
type cache struct {
	limit int64

	mu     sync.Mutex
	byPath map[string]*list.Element // of *cached
	recent list.List                // last used first
	octets int64
}

type cached struct {
	path    string
	listing *listing
	weight  int64
}

func (c *cache) get(path string) *listing {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byPath[path]
	if e == nil {
		return nil
	}
	c.recent.MoveToFront(e)
	return e.Value.(*cached).listing
}

// holds says that l is not too large to be kept.
func (c *cache) holds(l *listing) bool { return l.weight() <= c.limit }

// put keeps l, unless it is nil.
func (c *cache) put(path string, l *listing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byPath[path]; e != nil {
		c.remove(e)
	}
	if l == nil || !c.holds(l) {
		return
	}
	if c.byPath == nil {
		c.byPath = make(map[string]*list.Element)
	}
	v := &cached{path, l, l.weight()}
	c.byPath[path] = c.recent.PushFront(v)
	c.octets += v.weight
	for c.octets > c.limit {
		c.remove(c.recent.Back())
	}
}

// remove needs c.mu.
func (c *cache) remove(e *list.Element) {
	v := c.recent.Remove(e).(*cached)
	delete(c.byPath, v.path)
	c.octets -= v.weight
}
