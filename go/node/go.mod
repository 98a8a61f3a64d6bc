module dwcp.internal/selector/node

go 1.21

require (
	dwcp.internal/selector v0.0.0-00010101000000-000000000000
	dwcp.internal/selector/engines v0.0.0-00010101000000-000000000000
)

require (
	github.com/DataDog/zstd v1.5.7 // indirect
	golang.org/x/crypto v0.31.0 // indirect
	golang.org/x/sys v0.28.0 // indirect
)

replace (
	dwcp.internal/selector => ../
	dwcp.internal/selector/engines => ../engines
)
