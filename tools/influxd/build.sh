#!/bin/sh
# Builds the InfluxDB that go.sum pins and keeps it outside the checkout; prints what it does. Safe to run twice, or two
# at once. Without a working Go, cargo and gcc it says so and exits 0: the tests that need InfluxDB then skip.
#
#   build.sh          build unless cached
#   build.sh --path   print where the binary is or would be, and do nothing
set -eu
cd "$(dirname "$0")"

digest=$(cat go.mod go.sum | sha256sum | cut -c1-16)
version=$(sed -n 's|^.*github.com/influxdata/influxdb/v2 v\([0-9.]*\).*|\1|p' go.mod)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/dwcp/influxd/$version-$digest"
binary="$cache/influxd"

if [ "${1:-}" = --path ]; then
    echo "$binary"
    exit 0
fi
if [ -x "$binary" ]; then
    echo "influxd $version is already built: $binary"
    exit 0
fi
PATH="$PATH:/usr/local/go/bin:$HOME/.cargo/bin"
export RUSTUP_TOOLCHAIN="${RUSTUP_TOOLCHAIN:-stable}" # Flux pins an old one; without rustup this has no effect
for probe in "go version" "cargo --version" "gcc --version"; do
    if ! $probe >/dev/null 2>&1; then
        echo "influxd $version cannot be built: '$probe' fails. Tests against a real InfluxDB will be skipped."
        exit 0
    fi
done

mkdir -p "$cache"
work=$(mktemp -d "$cache/.build.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# Flux's Rust lints fail on newer compilers than the one it pins; RUSTFLAGS would not reach its build scripts.
cat >"$work/rustc-wrapper" <<'WRAPPER'
#!/bin/sh
exec "$@" --cap-lints warn
WRAPPER
chmod +x "$work/rustc-wrapper"

echo "building influxd $version (3 to 10 minutes, once) into $cache"
export GOFLAGS="-mod=readonly -buildvcs=false"
echo "1/2 pkg-config, which builds Flux's Rust library on demand"
go build -o "$work/pkg-config" github.com/influxdata/pkg-config
echo "2/2 influxd"
PKG_CONFIG="$work/pkg-config" \
RUSTC_WRAPPER="$work/rustc-wrapper" \
    go build -o "$work/influxd" -tags sqlite_foreign_keys,sqlite_json -ldflags "-s -w" \
    github.com/influxdata/influxdb/v2/cmd/influxd
"$work/influxd" version >/dev/null
mv "$work/influxd" "$binary"
echo "built: $binary"
