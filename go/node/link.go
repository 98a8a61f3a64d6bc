package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"time"
)

// LinkConfig says where a peer is. RateMbps and RTT make loopback a link of that kind; the
// node measures its link either way.
type LinkConfig struct {
	Address  string        // host:port
	NodeID   string        // this node's
	RateMbps float64       // 0: as fast as it goes
	RTT      time.Duration // added
}

// Link is a connection to a peer, and what was measured of it. It is for one goroutine.
type Link struct {
	config     LinkConfig
	connection net.Conn
	in         *bufio.Reader

	PeerID        string
	RTTMs         float64 // average
	JitterMs      float64 // average of the change from one round trip to the next
	BandwidthMbps float64 // average
	PeerIdleCores float64
	lastRTTMs     float64
}

const (
	linkAlpha = 0.2 // of the averages, as of the contract's

	firstPings     = 5
	bandwidthProbe = 50 * time.Millisecond // about what the first look at the bandwidth takes
	probeBytes     = 8 << 20               // at most
	tellingBytes   = 64 << 10              // from here on a transfer tells of the bandwidth
)

// Connect dials, says hello, and measures.
func Connect(ctx context.Context, config LinkConfig) (*Link, error) {
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "tcp", config.Address)
	if err != nil {
		return nil, err
	}
	link := &Link{config: config, connection: connection}
	if config.RateMbps > 0 || config.RTT > 0 {
		link.connection = &emulated{Conn: connection, bytesPerSecond: config.RateMbps * 125_000, rtt: config.RTT}
	}
	link.in = bufio.NewReaderSize(link.connection, 64<<10)
	if err := link.begin(ctx); err != nil {
		_ = connection.Close() // the first error is the one to tell
		return nil, err
	}
	return link, nil
}

func (l *Link) begin(ctx context.Context) (err error) {
	defer l.during(ctx)()
	l.PeerID, err = greet(l.in, l.connection, l.config.NodeID)
	if err != nil {
		return err
	}
	for n := 0; n < firstPings; n++ {
		if err := l.ping(0); err != nil {
			return err
		}
	}
	bytes := int64(probeBytes)
	if l.config.RateMbps > 0 {
		bytes = min(bytes, int64(l.config.RateMbps*125_000*bandwidthProbe.Seconds()))
	}
	return l.ping(max(bytes, tellingBytes))
}

// Ping measures a round trip, and asks how busy the peer is.
func (l *Link) Ping(ctx context.Context) error {
	defer l.during(ctx)()
	return l.ping(0)
}

func (l *Link) ping(paddingBytes int64) error {
	began := time.Now()
	if err := writeMessage(l.connection, kindPing, ping{paddingBytes}); err != nil {
		return err
	}
	if paddingBytes > 0 {
		if _, err := l.connection.Write(make([]byte, paddingBytes)); err != nil {
			return err
		}
	}
	var said pong
	if err := expect(l.in, kindPong, &said); err != nil {
		return err
	}
	tookMs := milliseconds(time.Since(began))
	l.PeerIdleCores = said.IdleCores
	if paddingBytes > 0 {
		l.noteBandwidth(paddingBytes, tookMs)
		return nil
	}
	if l.lastRTTMs > 0 {
		move(&l.JitterMs, math.Abs(tookMs-l.lastRTTMs))
	}
	l.lastRTTMs = tookMs
	move(&l.RTTMs, tookMs)
	return nil
}

// Send carries an offer and its bytes. wireMs is from the first byte until the peer has
// them all, as this node learns it.
func (l *Link) Send(ctx context.Context, offered *offer, data []byte) (said verdict, wireMs float64, err error) {
	defer l.during(ctx)()
	began := time.Now()
	if err := writeMessage(l.connection, kindOffer, offered); err != nil {
		return verdict{}, 0, l.broken(err)
	}
	if _, err := l.connection.Write(data); err != nil {
		return verdict{}, 0, l.broken(err)
	}
	what, text, err := readMessage(l.in)
	wireMs = milliseconds(time.Since(began))
	if err == nil && what == kindReceived {
		if len(data) >= tellingBytes {
			l.noteBandwidth(int64(len(data)), wireMs)
		}
		what, text, err = readMessage(l.in)
	}
	if err == nil && what != kindVerdict {
		err = fmt.Errorf("%w: message %d", errProtocol, what)
	}
	if err == nil {
		err = decode(text, &said)
	}
	return said, wireMs, l.broken(err)
}

func (l *Link) noteBandwidth(bytes int64, tookMs float64) {
	move(&l.BandwidthMbps, float64(bytes)/125/max(tookMs-l.RTTMs, tookMs/10))
}

// Close hangs up.
func (l *Link) Close() { _ = l.connection.Close() } // nothing waits to be written

// during bounds what follows by ctx and by silence; the function returned ends that.
func (l *Link) during(ctx context.Context) (end func() bool) {
	_ = l.connection.SetDeadline(time.Now().Add(silence)) // a closed connection shows when it is used
	return context.AfterFunc(ctx, func() { _ = l.connection.SetDeadline(time.Unix(1, 0)) })
}

// broken says of an error that the peer is gone, unless it answered nonsense.
func (l *Link) broken(err error) error {
	if err == nil || errors.Is(err, errProtocol) {
		return err
	}
	return fmt.Errorf("the peer went away: %w", unexpected(err))
}

func move(average *float64, now float64) {
	if *average == 0 {
		*average = now
		return
	}
	*average += linkAlpha * (now - *average)
}

func milliseconds(duration time.Duration) float64 { return float64(duration.Nanoseconds()) / 1e6 }

// emulated is a connection that is no faster than a rate, and whose answers come no
// earlier than a round trip after what was written last.
type emulated struct {
	net.Conn
	bytesPerSecond float64 // 0: as fast as it goes
	rtt            time.Duration
	freeAt         time.Time // when the last byte written is through
}

// pieceBytes is written at once: little enough for the rate to be even.
const pieceBytes = 16 << 10

func (e *emulated) Write(data []byte) (written int, err error) {
	if now := time.Now(); e.freeAt.Before(now) {
		e.freeAt = now
	}
	for written < len(data) {
		piece := data[written:min(written+pieceBytes, len(data))]
		n, err := e.Conn.Write(piece)
		written += n
		if err != nil {
			return written, err
		}
		if e.bytesPerSecond > 0 {
			e.freeAt = e.freeAt.Add(time.Duration(float64(n) / e.bytesPerSecond * 1e9))
			time.Sleep(time.Until(e.freeAt))
		}
	}
	return written, nil
}

func (e *emulated) Read(into []byte) (int, error) {
	n, err := e.Conn.Read(into)
	time.Sleep(time.Until(e.freeAt.Add(e.rtt)))
	return n, err
}
