package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	selector "dwcp.internal/selector"
	"dwcp.internal/selector/engines"
)

const (
	// DefaultMaxPayloadBytes bounds what a receiver takes.
	DefaultMaxPayloadBytes = 1 << 30

	silence         = 2 * time.Minute // of a peer before its connection is closed
	maxPaddingBytes = 64 << 20
)

// Receiver takes what peers send, checks it, and holds the newest version of each object.
type Receiver struct {
	NodeID          string
	Held            *Held
	MaxPayloadBytes int64       // default DefaultMaxPayloadBytes
	Say             func(Event) // told of every offer and every connection's end; may be nil
}

// Event is something that a receiver tells of.
type Event struct {
	PeerID   string
	ObjectID string        // empty: of the connection
	Bytes    int64         // of the payload
	Sent     int64         // bytes that came
	Engine   string        // that was sent with
	Took     time.Duration // to decompress
	Result   string
	Problem  string
}

// Serve accepts peers until ctx is done, and then waits for what is under way.
func (r *Receiver) Serve(ctx context.Context, listener net.Listener) error {
	var peers sync.WaitGroup
	defer peers.Wait()
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	for {
		connection, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("no more peers can be accepted: %w", err)
		}
		peers.Add(1)
		go func() {
			defer peers.Done()
			defer func() { _ = connection.Close() }()
			stop := context.AfterFunc(ctx, func() { _ = connection.Close() })
			defer stop()
			peerID, err := r.converse(connection)
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				r.say(Event{PeerID: peerID, Result: resultFailed, Problem: "the connection ended: " + err.Error()})
			}
		}()
	}
}

func (r *Receiver) say(event Event) {
	if r.Say != nil {
		r.Say(event)
	}
}

func (r *Receiver) converse(connection net.Conn) (peerID string, err error) {
	deadline := func() { _ = connection.SetDeadline(time.Now().Add(silence)) } // a closed one shows when it is read
	deadline()
	in := bufio.NewReaderSize(connection, 256<<10)
	peerID, err = greet(in, connection, r.NodeID)
	if err != nil {
		return "", err
	}
	var machine Machine
	for {
		deadline()
		what, text, err := readMessage(in)
		if err != nil {
			return peerID, err
		}
		switch what {
		case kindPing:
			err = r.answerPing(connection, in, text, &machine)
		case kindOffer:
			err = r.take(connection, in, text, peerID)
		default:
			err = fmt.Errorf("%w: message %d", errProtocol, what)
		}
		if err != nil {
			return peerID, err
		}
	}
}

func (r *Receiver) answerPing(out io.Writer, in io.Reader, text []byte, machine *Machine) error {
	var asked ping
	if err := decode(text, &asked); err != nil {
		return err
	}
	if asked.PaddingBytes < 0 || asked.PaddingBytes > maxPaddingBytes {
		return fmt.Errorf("%w: %d bytes of padding", errProtocol, asked.PaddingBytes)
	}
	if _, err := io.CopyN(io.Discard, in, asked.PaddingBytes); err != nil {
		return unexpected(err)
	}
	machine.Look()
	return writeMessage(out, kindPong, pong{machine.IdleCores()})
}

// take receives one payload and says what came of it.
func (r *Receiver) take(out io.Writer, in io.Reader, text []byte, peerID string) error {
	var offered offer
	if err := decode(text, &offered); err != nil {
		return err
	}
	most := r.MaxPayloadBytes
	if most <= 0 {
		most = DefaultMaxPayloadBytes
	}
	// Compressed, a payload is never much longer than it was.
	if offered.SizeBytes < 1 || offered.SizeBytes > most || offered.SentBytes < 0 || offered.SentBytes > most+most/8+1<<20 {
		said := verdict{Result: resultRefused, Problem: fmt.Sprintf("%d bytes in %d: payloads of 1 to %d bytes are taken", offered.SizeBytes, offered.SentBytes, most)}
		r.say(eventOf(peerID, &offered, &said))
		return errors.Join(writeMessage(out, kindVerdict, said), fmt.Errorf("%w: %s", errProtocol, said.Problem))
	}
	data := make([]byte, offered.SentBytes)
	if _, err := io.ReadFull(in, data); err != nil {
		return fmt.Errorf("%s broke off: %w", offered.ObjectID, unexpected(err))
	}
	if err := writeMessage(out, kindReceived, struct{}{}); err != nil {
		return err
	}
	said := r.unpack(&offered, data, peerID, most)
	r.say(eventOf(peerID, &offered, &said))
	return writeMessage(out, kindVerdict, said)
}

func (r *Receiver) unpack(offered *offer, data []byte, peerID string, most int64) verdict {
	engine, found := selector.ParseChoice(offered.Engine)
	if !found {
		return verdict{Result: resultRefused, Problem: fmt.Sprintf("there is no engine %q", offered.Engine)}
	}
	options := selector.EngineOptions{Streams: min(max(offered.Streams, 1), selector.MaxStreams)}
	if offered.BaseDigest != "" {
		held, digest, err := r.Held.Payload(peerID, offered.ObjectID)
		if err != nil {
			return verdict{Result: resultFailed, Problem: err.Error()}
		}
		if digest != offered.BaseDigest {
			return verdict{Result: resultBaseMissing, HeldDigest: digest, Problem: "another version is held than it was compressed against"}
		}
		options.Previous = &selector.Version{Payload: held}
	}
	var said verdict
	payload := data
	if engine != selector.None {
		run, err := (&engines.Engines{MaxPayloadBytes: min(most, offered.SizeBytes)}).Decompress(nil, engine, data, options)
		if err != nil {
			return verdict{Result: resultDamaged, Problem: err.Error()}
		}
		payload = run.Data
		said.DecompressionNs, said.CPUNs = run.Makespan.Nanoseconds(), run.CPUTime.Nanoseconds()
	}
	if int64(len(payload)) != offered.SizeBytes || digestOf(payload) != offered.Digest {
		return verdict{Result: resultDamaged, Problem: "the payload's digest does not fit"}
	}
	if err := r.Held.Put(peerID, offered.ObjectID, offered.Digest, payload); err != nil {
		return verdict{Result: resultFailed, Problem: err.Error()}
	}
	said.Result, said.HeldDigest = resultHeld, offered.Digest
	return said
}

func eventOf(peerID string, offered *offer, said *verdict) Event {
	return Event{
		PeerID: peerID, ObjectID: offered.ObjectID, Bytes: offered.SizeBytes, Sent: offered.SentBytes, Engine: offered.Engine,
		Took: time.Duration(said.DecompressionNs), Result: said.Result, Problem: said.Problem,
	}
}
