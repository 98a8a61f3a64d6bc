module dwcp.internal/selector/engines

go 1.21

require (
	dwcp.internal/selector v0.0.0-00010101000000-000000000000
	github.com/DataDog/zstd v1.5.7
)

require (
	golang.org/x/crypto v0.31.0
	golang.org/x/sys v0.28.0 // indirect
)

replace dwcp.internal/selector => ../
