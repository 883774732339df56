// Command clamor-chat asks a question and prints the answer as it comes.
//
//	./generate.sh && go run . dns:///127.0.0.1:7700 "How many legs do 7 cats have?"
//
// A key for a gateway that wants one is taken from CLAMOR_API_KEY.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // without it the service config's healthCheckConfig does nothing
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	pb "example.org/clamor-chat/clamorv1"
)

// answer prints the answer and returns its last message, with what it cost.
func answer(ctx context.Context, client pb.GenerationServiceClient, question string) (*pb.Finished, error) {
	stream, err := client.StreamChat(ctx, &pb.StreamChatRequest{
		Messages: []*pb.ChatMessage{{Role: "user", Content: question}},
		Options:  &pb.GenerationOptions{MaxTokens: proto.Uint32(256)},
	})
	if err != nil {
		return nil, err
	}
	var finished *pb.Finished
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if finished == nil {
				return nil, errors.New("the stream ended without an end")
			}
			return finished, nil
		}
		if err != nil {
			return nil, err
		}
		if delta := event.GetDelta(); delta != nil {
			fmt.Print(delta.GetText())
		}
		if event.GetFinished() != nil {
			fmt.Println()
			finished = event.GetFinished()
		}
	}
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: clamor-chat dns:///HOST:PORT QUESTION")
	}
	// Retries of UNAVAILABLE, balancing over all gateways of the name, and none that says it is not ready.
	config, err := os.ReadFile("../grpc-service-config.json")
	if err != nil {
		log.Fatal(err)
	}
	connection, err := grpc.Dial(os.Args[1], grpc.WithDefaultServiceConfig(string(config)),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if key := os.Getenv("CLAMOR_API_KEY"); key != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
	}
	finished, err := answer(ctx, pb.NewGenerationServiceClient(connection), os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	tokens, forwards := finished.GetUsage().GetCompletionTokens(), finished.GetSpeculation().GetForwards()
	fmt.Fprintf(os.Stderr, "%d tokens in %d forwards\n", tokens, forwards)
}
