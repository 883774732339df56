module example.org/clamor-chat

go 1.19

require (
	google.golang.org/grpc v1.60.1
	google.golang.org/protobuf v1.32.0
)
