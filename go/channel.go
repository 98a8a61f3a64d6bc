package selector

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"time"
)

const (
	channelKind             = "dwcp.channel"
	channelFormat           = 1
	maxChannelDocumentBytes = 1 << 20
)

var (
	// ErrSignature says that a document or bundle is not signed by the trusted key.
	ErrSignature = errors.New("not signed by the trusted key")
	// ErrReplayed says that a channel document is older than one seen before.
	ErrReplayed = errors.New("an older channel document was replayed")
	// ErrChannel says that a channel document is damaged or of another format.
	ErrChannel = errors.New("no channel document")
)

// The published names of versions and digests; nothing else becomes part of a path.
var (
	versionPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)
	digestPattern  = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Channel is what a channel document says (see the pipeline's release/channel.py).
// Bundles maps each version named to the SHA-256 of its manifest.
type Channel struct {
	Serial   int64
	IssuedAt time.Time
	Regions  map[string]RegionState
	Bundles  map[string]string
}

// RegionState is what serves one region. An empty champion means that the rules
// decide; ShareBuckets of the RolloutBuckets follow the challenger, 0 is shadow.
type RegionState struct {
	Champion, Challenger string
	ShareBuckets         int
}

// ParsePublicKey reads the Ed25519 public key that the pipeline exports in PEM form.
func ParsePublicKey(data []byte) (ed25519.PublicKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("the public key is not in PEM form: copy signing.pub.pem as it is")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the public key is damaged: %w", err)
	}
	key, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the public key is a %T: an Ed25519 key is needed", parsed)
	}
	return key, nil
}

// ParseChannel returns the document in data once its signature holds and its
// content is sound. A serial below minSerial is a replay; an equal one is fine.
// Errors wrap ErrSignature, ErrReplayed or ErrChannel. Fields that this version
// does not know are passed over, as the pipeline's own reader does.
func ParseChannel(data []byte, key ed25519.PublicKey, minSerial int64) (*Channel, error) {
	if len(data) > maxChannelDocumentBytes {
		return nil, fmt.Errorf("%w: it is larger than %d bytes", ErrChannel, maxChannelDocumentBytes)
	}
	document, err := verifySigned(data, key)
	if err != nil {
		return nil, err
	}
	channel, err := decodeChannel(document)
	if err != nil {
		return nil, err
	}
	if channel.Serial < minSerial {
		return nil, fmt.Errorf("%w: it has serial %d, but serial %d was seen before; what is loaded stays",
			ErrReplayed, channel.Serial, minSerial)
	}
	return channel, nil
}

// verifySigned returns the document inside {"document":…,"key_id":…,"signature":…}
// as its bytes stand in data. The envelope is matched byte by byte and the signature
// covers the rest, so there is one spelling only and nothing unsigned is read.
func verifySigned(data []byte, key ed25519.PublicKey) ([]byte, error) {
	const head, keyHead, signatureHead, tail = `{"document":`, `,"key_id":"`, `","signature":"`, "\"}\n"
	const keyChars = 16
	signatureChars := base64.StdEncoding.EncodedLen(ed25519.SignatureSize)
	rest, signed := bytes.CutSuffix(data, []byte(tail))
	rest, headed := bytes.CutPrefix(rest, []byte(head))
	end := len(rest) - len(keyHead) - keyChars - len(signatureHead) - signatureChars
	if !signed || !headed || end <= 0 {
		return nil, fmt.Errorf("%w: it was cut off, overwritten or edited", ErrChannel)
	}
	document, envelope := rest[:end], rest[end:]
	envelope, named := bytes.CutPrefix(envelope, []byte(keyHead))
	keyID, encoded, separated := bytes.Cut(envelope, []byte(signatureHead))
	signature, err := base64.StdEncoding.Strict().DecodeString(string(encoded))
	if !named || !separated || err != nil || len(signature) != ed25519.SignatureSize {
		return nil, fmt.Errorf("%w: it was cut off, overwritten or edited", ErrChannel)
	}
	if trusted := keyIDOf(key); string(keyID) != trusted {
		return nil, fmt.Errorf("%w: it names key %q, trusted is %s", ErrSignature, keyID, trusted)
	}
	if !ed25519.Verify(key, document, signature) {
		return nil, fmt.Errorf("%w: it was changed after it was signed", ErrSignature)
	}
	return document, nil
}

// keyIDOf says which key signed and proves nothing.
func keyIDOf(key ed25519.PublicKey) string {
	digest := sha256.Sum256(key)
	return hex.EncodeToString(digest[:8])
}

func decodeChannel(document []byte) (*Channel, error) {
	var body struct {
		Kind     string    `json:"kind"`
		Format   int       `json:"format"`
		Serial   int64     `json:"serial"`
		IssuedAt time.Time `json:"issued_at"`
		Regions  map[string]struct {
			Champion     *string `json:"champion"`
			Challenger   *string `json:"challenger"`
			ShareBuckets *int    `json:"share_buckets"`
		} `json:"regions"`
		Bundles map[string]string `json:"bundles"`
	}
	if err := json.Unmarshal(document, &body); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrChannel, err)
	}
	if body.Kind != channelKind || body.Format != channelFormat {
		return nil, fmt.Errorf("%w: it has kind %q and format %d; this program reads %q %d: update it",
			ErrChannel, body.Kind, body.Format, channelKind, channelFormat)
	}
	if body.Serial < 1 || body.IssuedAt.IsZero() || body.Regions == nil || body.Bundles == nil {
		return nil, fmt.Errorf("%w: it lacks its serial, date, regions or bundles", ErrChannel)
	}
	for version, digest := range body.Bundles {
		if !versionPattern.MatchString(version) || !digestPattern.MatchString(digest) {
			return nil, fmt.Errorf("%w: it names bundle %q with digest %q", ErrChannel, version, digest)
		}
	}
	channel := &Channel{body.Serial, body.IssuedAt, make(map[string]RegionState, len(body.Regions)), body.Bundles}
	for region, said := range body.Regions {
		state := RegionState{}
		for _, named := range []struct{ from, to *string }{
			{said.Champion, &state.Champion}, {said.Challenger, &state.Challenger},
		} {
			if named.from == nil {
				continue
			}
			if _, known := body.Bundles[*named.from]; !known {
				return nil, fmt.Errorf("%w: region %q names version %q without its bundle", ErrChannel, region, *named.from)
			}
			*named.to = *named.from
		}
		if said.ShareBuckets == nil || *said.ShareBuckets < 0 || *said.ShareBuckets > RolloutBuckets {
			return nil, fmt.Errorf("%w: region %q has no share of 0 to %d buckets", ErrChannel, region, RolloutBuckets)
		}
		state.ShareBuckets = *said.ShareBuckets
		channel.Regions[region] = state
	}
	return channel, nil
}
