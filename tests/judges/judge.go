// Shows how Go reads the path of a request target. `read` reads a JSON list of targets from
// standard input; `serve PORT` is an upstream.
package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"strings"
)

func readings(target string) []*string {
	var parsed, unescaped *string
	if uri, err := url.ParseRequestURI(target); err == nil {
		parsed = &uri.Path
	}
	before, _, _ := strings.Cut(target, "?")
	if text, err := url.PathUnescape(before); err == nil {
		unescaped = &text
	}
	return []*string{parsed, unescaped}
}

func main() {
	if os.Args[1] == "read" {
		var targets []string
		if err := json.NewDecoder(os.Stdin).Decode(&targets); err != nil {
			panic(err)
		}
		all := [][]*string{}
		for _, target := range targets {
			all = append(all, readings(target))
		}
		if err := json.NewEncoder(os.Stdout).Encode(all); err != nil {
			panic(err)
		}
		return
	}
	answer := func(writer http.ResponseWriter, request *http.Request) {
		target := request.RequestURI
		json.NewEncoder(writer).Encode(map[string]any{"target": target, "readings": readings(target)})
	}
	panic(http.ListenAndServe("127.0.0.1:"+os.Args[2], http.HandlerFunc(answer)))
}
