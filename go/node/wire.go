package node

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// The protocol of two nodes over one TCP connection. A message is its length (uint32,
// little-endian), a byte that says what it is, and JSON. Behind an offer come the bytes
// that it names, behind a ping its padding. Both sides say hello first; then the sender
// asks and the receiver answers, one at a time.
//
//	sender   hello, ping, offer + bytes
//	receiver hello, pong, received (all bytes are there), verdict (what came of them)
const protocol = 1

type kind byte

const (
	kindHello kind = iota + 1
	kindPing
	kindPong
	kindOffer
	kindReceived
	kindVerdict
)

// maxMessageBytes bounds a message; those of this protocol have a few hundred bytes.
const maxMessageBytes = 64 << 10

type hello struct {
	Protocol int    `json:"protocol"`
	NodeID   string `json:"node_id"`
}

type ping struct {
	PaddingBytes int64 `json:"padding_bytes"`
}

type pong struct {
	IdleCores float64 `json:"idle_cores"`
}

type offer struct {
	TransferID string `json:"transfer_id"`
	ObjectID   string `json:"object_id"`
	Engine     string `json:"engine"`
	Streams    int    `json:"streams"`
	SizeBytes  int64  `json:"size_bytes"`
	SentBytes  int64  `json:"sent_bytes"`
	Digest     string `json:"digest"`      // of the payload
	BaseDigest string `json:"base_digest"` // of the version that it was compressed against; empty: none
}

// What came of an offer.
const (
	resultHeld        = "held"         // the receiver has the payload, whose digest fits
	resultBaseMissing = "base_missing" // it holds another version than the one compressed against
	resultDamaged     = "damaged"      // what arrived is not the payload
	resultRefused     = "refused"      // it takes no such offer
	resultFailed      = "failed"       // it could not keep the payload
)

type verdict struct {
	Result          string `json:"result"`
	Problem         string `json:"problem,omitempty"`
	HeldDigest      string `json:"held_digest,omitempty"` // of what it holds of the object now
	DecompressionNs int64  `json:"decompression_ns"`      // what the transfer waited for
	CPUNs           int64  `json:"cpu_ns"`                // of all threads
}

// errProtocol says that a peer does not speak this protocol.
var errProtocol = errors.New("the peer does not speak this protocol")

func writeMessage(to io.Writer, what kind, message any) error {
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	out := binary.LittleEndian.AppendUint32(nil, uint32(len(text)))
	_, err = to.Write(append(append(out, byte(what)), text...))
	return err
}

// readMessage returns io.EOF if the peer is done.
func readMessage(from io.Reader) (kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(from, head[:]); err != nil {
		return 0, nil, err
	}
	length := binary.LittleEndian.Uint32(head[:])
	if length > maxMessageBytes {
		return 0, nil, fmt.Errorf("%w: a message of %d bytes", errProtocol, length)
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(from, text); err != nil {
		return 0, nil, unexpected(err)
	}
	return kind(head[4]), text, nil
}

// expect reads the one message that may come now.
func expect(from io.Reader, what kind, into any) error {
	came, text, err := readMessage(from)
	if err != nil {
		return unexpected(err)
	}
	if came != what {
		return fmt.Errorf("%w: message %d in place of %d", errProtocol, came, what)
	}
	return decode(text, into)
}

func decode(text []byte, into any) error {
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%w: %v", errProtocol, err)
	}
	return nil
}

// greet says hello and hears it.
func greet(in io.Reader, out io.Writer, nodeID string) (peerID string, err error) {
	if err := writeMessage(out, kindHello, hello{protocol, nodeID}); err != nil {
		return "", err
	}
	var theirs hello
	if err := expect(in, kindHello, &theirs); err != nil {
		return "", err
	}
	if theirs.Protocol != protocol || theirs.NodeID == "" || len(theirs.NodeID) > 100 {
		return "", fmt.Errorf("%w: it is %q with version %d", errProtocol, theirs.NodeID, theirs.Protocol)
	}
	return theirs.NodeID, nil
}

// unexpected is an end that comes too early.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
