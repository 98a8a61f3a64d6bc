package selector

import "testing"

func TestEnumsReadWhatTheyWrite(t *testing.T) {
	for value := Choice(0); value < AlgorithmCount; value++ {
		if found, ok := ParseChoice(value.String()); !ok || found != value {
			t.Errorf("%v reads as %v", value, found)
		}
	}
	for value := range reasonNames {
		if found, ok := ParseReason(Reason(value).String()); !ok || found != Reason(value) {
			t.Errorf("%v reads as %v", Reason(value), found)
		}
	}
	for value := range armNames {
		if found, ok := ParseArm(Arm(value).String()); !ok || found != Arm(value) {
			t.Errorf("%v reads as %v", Arm(value), found)
		}
	}
	for code := range datatypeNames {
		if found := ParseDataType(DataType(code).String()); found != DataType(code) {
			t.Errorf("%v reads as %v", DataType(code), found)
		}
	}
}

func TestWhatTheContractDoesNotKnow(t *testing.T) {
	if _, ok := ParseChoice("gzip"); ok {
		t.Error("gzip is a choice")
	}
	if ParseLinkType("satellite") != LinkTypeUnknown || ParseRegion("") != RegionUnknown ||
		ParseDataType("video") != DataTypeUnknown {
		t.Error("an unknown word has a code")
	}
	if Choice(99).String() != "unknown" || LinkType(99).String() != "unknown" {
		t.Error("a value beyond the known ones has a name")
	}
}

func TestDefaultsAreLegal(t *testing.T) {
	for _, spec := range FeatureSpecs {
		if spec.Default < spec.Minimum || spec.Default > spec.Maximum {
			t.Errorf("%s: %v is outside of %v to %v", spec.Name, spec.Default, spec.Minimum, spec.Maximum)
		}
	}
}
