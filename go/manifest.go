package selector

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
)

const (
	bundleKind    = "dwcp.bundle"
	bundleFormat  = 1
	manifestName  = "manifest.json"
	signatureName = "manifest.sig"
	modelName     = "model.dwcp"

	maxManifestBytes = 1 << 20
	maxModelBytes    = 8 << 20 // a published one has 1 to 2 MB; two old and two new ones fit into memory at once
)

// ErrBundle says that a bundle is damaged, incomplete, or made for another node.
var ErrBundle = errors.New("the bundle cannot be used")

// LoadModel turns the bytes of a published model into a Predictor, once the model
// answers what was stored with it as it did when it was published.
type LoadModel func(data []byte) (Predictor, error)

// manifest is what a node needs of a bundle's manifest (the pipeline's release/bundle.py).
type manifest struct {
	Kind             string                `json:"kind"`
	Format           int                   `json:"format"`
	Version          string                `json:"version"`
	Files            map[string]listedFile `json:"files"`
	Classes          []string              `json:"classes"`
	FeatureSetDigest string                `json:"feature_set_digest"`
}

type listedFile struct {
	SizeBytes int64  `json:"size_bytes"`
	SHA256    string `json:"sha256"`
}

// bundleFiles are the files of one version that a node loads and keeps, by name.
type bundleFiles map[string][]byte

// fetchBundle reads the version's files and loads its model, once the manifest is
// the one that the channel names and signed by key and the model file is as the manifest
// says. What it reads is bounded whatever the manifest says. Errors wrap ErrBundle or
// ErrSignature if the bundle is bad; others say that it could not be read.
func fetchBundle(
	ctx context.Context, source Source, key ed25519.PublicKey, version, digest string, load LoadModel,
) (Predictor, bundleFiles, error) {
	read := func(name string, limitBytes int64) ([]byte, error) {
		data, _, err := source.Read(ctx, path.Join("bundles", version, name), limitBytes, "")
		if errors.Is(err, ErrTooLarge) {
			err = fmt.Errorf("%w: %w", ErrBundle, err)
		}
		return data, err
	}
	files := bundleFiles{}
	var err error
	if files[manifestName], err = read(manifestName, maxManifestBytes); err != nil {
		return nil, nil, err
	}
	if files[signatureName], err = read(signatureName, ed25519.SignatureSize); err != nil {
		return nil, nil, err
	}
	described, err := parseManifest(files[manifestName], files[signatureName], key, version, digest)
	if err != nil {
		return nil, nil, err
	}
	listed, found := described.Files[modelName]
	if !found || listed.SizeBytes < 1 || listed.SizeBytes > maxModelBytes {
		return nil, nil, fmt.Errorf("%w: version %s lists no %s of up to %d bytes", ErrBundle, version, modelName, maxModelBytes)
	}
	if files[modelName], err = read(modelName, listed.SizeBytes); err != nil {
		return nil, nil, err
	}
	if sum := sha256.Sum256(files[modelName]); hex.EncodeToString(sum[:]) != listed.SHA256 {
		return nil, nil, fmt.Errorf("%w: %s of version %s was changed or cut off", ErrBundle, modelName, version)
	}
	model, err := loadSafely(load, files[modelName])
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %s of version %s: %w", ErrBundle, modelName, version, err)
	}
	if model.Version() != version {
		return nil, nil, fmt.Errorf("%w: %s of version %s calls itself %q", ErrBundle, modelName, version, model.Version())
	}
	return model, files, nil
}

func parseManifest(data, signature []byte, key ed25519.PublicKey, version, digest string) (*manifest, error) {
	if !ed25519.Verify(key, data, signature) {
		return nil, fmt.Errorf("%w: the manifest of version %s", ErrSignature, version)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != digest {
		return nil, fmt.Errorf("%w: the manifest of version %s is not the one that was released", ErrBundle, version)
	}
	var found manifest
	if err := json.Unmarshal(data, &found); err != nil {
		return nil, fmt.Errorf("%w: the manifest of version %s: %v", ErrBundle, version, err)
	}
	switch {
	case found.Kind != bundleKind || found.Format != bundleFormat:
		return nil, fmt.Errorf("%w: its manifest has kind %q and format %d; this program reads %q %d: update it",
			ErrBundle, found.Kind, found.Format, bundleKind, bundleFormat)
	case found.Version != version:
		return nil, fmt.Errorf("%w: its manifest describes version %q, not %q", ErrBundle, found.Version, version)
	case !slices.Equal(found.Classes, choiceNames[:CandidateCount]):
		return nil, fmt.Errorf("%w: version %s decides between %q, this node between %q",
			ErrBundle, version, found.Classes, choiceNames[:CandidateCount])
	case found.FeatureSetDigest != FeatureSetDigest:
		return nil, fmt.Errorf("%w: version %s takes feature set %s, this node serves %s: update the node",
			ErrBundle, version, found.FeatureSetDigest, FeatureSetDigest)
	}
	return &found, nil
}

// loadSafely turns a loader's panic into an error: what it reads comes from outside.
func loadSafely(load LoadModel, data []byte) (model Predictor, err error) {
	defer func() {
		if problem := recover(); problem != nil {
			model, err = nil, fmt.Errorf("the loader panicked: %v", problem)
		}
	}()
	return load(data)
}
