module dwcp.internal/selector/onnx

go 1.21

require dwcp.internal/selector v0.0.0-00010101000000-000000000000

require github.com/yalue/onnxruntime_go v1.27.0

replace dwcp.internal/selector => ../
