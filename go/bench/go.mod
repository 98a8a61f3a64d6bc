module dwcp.internal/selector/bench

go 1.21

require (
	dwcp.internal/selector v0.0.0-00010101000000-000000000000
	dwcp.internal/selector/litert v0.0.0-00010101000000-000000000000
	dwcp.internal/selector/onnx v0.0.0-00010101000000-000000000000
)

require github.com/yalue/onnxruntime_go v1.27.0 // indirect

replace (
	dwcp.internal/selector => ../
	dwcp.internal/selector/litert => ../litert
	dwcp.internal/selector/onnx => ../onnx
)
