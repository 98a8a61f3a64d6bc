module dwcp.internal/selector

go 1.21
