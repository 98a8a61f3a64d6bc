package selector

import (
	"encoding/hex"
	"strings"
	"testing"
)

func TestRolloutBucketIsThePipelines(t *testing.T) {
	// dwcp.fleet.known.rollout_bucket of the same names; tests/release/test_go_rollout.py compares 10^5 more.
	for _, known := range []struct {
		node, object string
		bucket       int
	}{
		{"", "", 1712},
		{"n", "o", 2335},
		{"node-1", "vm_disk-17", 7117},
		{"кластер", "объект/α", 2158},
		{strings.Repeat("n", 127), "", 9497},
		{strings.Repeat("n", 128), "", 2857},
		{strings.Repeat("n", 300), strings.Repeat("o", 300), 7315},
	} {
		if bucket := RolloutBucket(known.node, known.object); bucket != known.bucket {
			t.Errorf("%.20q/%.20q lies in bucket %d, in Python %d", known.node, known.object, bucket, known.bucket)
		}
	}
}

func TestBlake2bIsTheStandards(t *testing.T) {
	for data, digest := range map[string]string{
		"":                        "cae66941d9efbd404e4d88758ea67670",
		"abc":                     "cf4ab791c62b8d2b2109c90275287816",
		strings.Repeat("x", 127):  "faeac286ccce46d5273182d599dd943b",
		strings.Repeat("x", 128):  "874acca82a22239ec64a3e70c3ae494e",
		strings.Repeat("x", 129):  "b9ee96f69e8210c624fee55d71d5a54f",
		strings.Repeat("x", 4096): "8f2d3f6a7fb27f3a6d1fb81939dfdd02",
	} {
		if found := blake2b128([]byte(data)); hex.EncodeToString(found[:]) != digest {
			t.Errorf("BLAKE2b-128 of %d bytes is %x, not %s", len(data), found, digest)
		}
	}
}

func TestRoute(t *testing.T) {
	champion, challenger := &servedModel{number: 1}, &servedModel{number: 2}
	for _, known := range []struct {
		name   string
		bucket int
		of     release
		model  *servedModel
		arm    Arm
		acts   bool
	}{
		{"no release", 0, release{fault: ErrModelMissing}, nil, ArmRules, true},
		{"rules are meant to serve", 0, release{}, nil, ArmRules, true},
		{"champion", 9_999, release{champion: champion}, champion, ArmChampion, true},
		{"within the share", 499, release{champion: champion, challenger: challenger, shareBuckets: 500}, challenger, ArmCanary, true},
		{"beyond the share", 500, release{champion: champion, challenger: challenger, shareBuckets: 500}, champion, ArmChampion, true},
		{"no share beside a champion", 0, release{champion: champion, challenger: challenger}, champion, ArmChampion, true},
		{"shadow", 0, release{challenger: challenger}, challenger, ArmShadow, false},
		{"canary beside rules", 499, release{challenger: challenger, shareBuckets: 500}, challenger, ArmCanary, true},
		{"shadow beside a canary", 500, release{challenger: challenger, shareBuckets: 500}, challenger, ArmShadow, false},
		{"whole share", 9_999, release{challenger: challenger, shareBuckets: RolloutBuckets}, challenger, ArmCanary, true},
	} {
		model, arm, acts := known.of.route(known.bucket)
		if model != known.model || arm != known.arm || acts != known.acts {
			t.Errorf("%s: model %v in arm %v, acting %v", known.name, model, arm, acts)
		}
	}
}

func BenchmarkRolloutBucket(b *testing.B) {
	b.ReportAllocs()
	for n := 0; n < b.N; n++ {
		RolloutBucket("us-east-node-0042", "vm_memory-000123")
	}
}
