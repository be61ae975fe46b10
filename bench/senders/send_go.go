// Post each line of standard input to a URL with net/http, one after the other on one connection, each in a trace.
package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		request, err := http.NewRequest("POST", os.Args[1], bytes.NewReader(lines.Bytes()))
		if err != nil {
			log.Fatal(err)
		}
		var id [24]byte
		rand.Read(id[:])
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Traceparent", fmt.Sprintf("00-%x-%x-01", id[:16], id[16:]))
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			log.Fatal(err)
		}
		io.Copy(io.Discard, answer.Body) // read to its end, or the connection is not used again
		answer.Body.Close()
	}
}
