module dwcp.internal/selector/engines

go 1.21

require (
	dwcp.internal/selector v0.0.0-00010101000000-000000000000
	github.com/DataDog/zstd v1.5.7
)

replace dwcp.internal/selector => ../
