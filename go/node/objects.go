package node

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	selector "dwcp.internal/selector"
)

// Version is one version of an object, on disk.
type Version struct {
	ObjectID string // "<type>-<object>", as the emulated fleet names them
	DataType selector.DataType
	Number   int64 // counting from 0
	Path     string
}

const layout = "<type>/<object>/<version>"

// FindVersions lists what lies below a directory as <type>/<object>/<version>: first
// every object's first version, then every second one, and so on. Versions are in the
// natural order of their names. Everything is looked at before anything is sent.
func FindVersions(root string) ([]Version, error) {
	types, err := folders(root)
	if err != nil {
		return nil, err
	}
	var versions []Version
	for _, kind := range types {
		dataType := selector.ParseDataType(kind)
		if dataType == selector.DataTypeUnknown {
			return nil, fmt.Errorf("%s is no data type: use one of %s", filepath.Join(root, kind), dataTypes())
		}
		objects, err := folders(filepath.Join(root, kind))
		if err != nil {
			return nil, err
		}
		for _, object := range objects {
			found, err := versionsOf(filepath.Join(root, kind, object), kind+"-"+object, dataType)
			if err != nil {
				return nil, err
			}
			versions = append(versions, found...)
		}
	}
	if len(versions) == 0 {
		return nil, fmt.Errorf("%s holds no objects: %s is expected below it", root, layout)
	}
	sort.SliceStable(versions, func(a, b int) bool { return versions[a].Number < versions[b].Number })
	return versions, nil
}

func versionsOf(folder, objectID string, dataType selector.DataType) ([]Version, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("the versions of an object cannot be read: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() {
			continue
		}
		info, err := os.Stat(filepath.Join(folder, entry.Name()))
		switch {
		case err != nil:
			return nil, fmt.Errorf("a version cannot be read: %w", err)
		case !info.Mode().IsRegular():
			return nil, fmt.Errorf("version %s is no plain file", filepath.Join(folder, entry.Name()))
		case info.Size() == 0:
			return nil, fmt.Errorf("version %s is empty: there is nothing to send of it", filepath.Join(folder, entry.Name()))
		}
		names = append(names, entry.Name())
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s has no versions: put at least one file in it", folder)
	}
	sort.Slice(names, func(a, b int) bool { return naturallyBefore(names[a], names[b]) })
	versions := make([]Version, len(names))
	for number, name := range names {
		versions[number] = Version{objectID, dataType, int64(number), filepath.Join(folder, name)}
	}
	return versions, nil
}

// naturallyBefore puts numbers in their order before all other names.
func naturallyBefore(a, b string) bool {
	aNumber, aErr := strconv.ParseUint(stem(a), 10, 63)
	bNumber, bErr := strconv.ParseUint(stem(b), 10, 63)
	switch {
	case aErr == nil && bErr == nil && aNumber != bNumber:
		return aNumber < bNumber
	case (aErr == nil) != (bErr == nil):
		return aErr == nil
	}
	return a < b
}

func stem(name string) string {
	before, _, _ := strings.Cut(name, ".")
	return before
}

func folders(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read, expected %s in it: %w", path, layout, err)
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

func dataTypes() string {
	var words []string
	for code := selector.DataTypeUnknown + 1; code.String() != selector.DataTypeUnknown.String(); code++ {
		words = append(words, code.String())
	}
	return strings.Join(words, ", ")
}
