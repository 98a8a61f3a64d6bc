module dwcp.internal/selector/litert

go 1.21

require dwcp.internal/selector v0.0.0-00010101000000-000000000000

replace dwcp.internal/selector => ../
