// What runs in the pods of tests: one static program, which also writes the images that it is in, since no registry is asked.
//
//	guest pause ...           waits for its end, as the container that holds a pod's namespaces; what else it is given is for another program
//	guest keep FILE ...       stands in for a database: keeps a log and appends a row to it every second
//	guest serve ADDRESS FILE  keeps a log: GET reads it, POST appends to it
//	guest append FILE TEXT    appends a line to a file
//	guest image               writes an archive with the images that it is in to its output
//	guest image-of NAME PATH=FILE...  writes an archive with an image of these files of this machine
package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	switch {
	case len(arguments) >= 1 && arguments[0] == "pause":
		<-ended
		return nil
	case len(arguments) == 1 && arguments[0] == "image":
		return writeImages(os.Stdout)
	case len(arguments) >= 3 && arguments[0] == "image-of":
		return writeImageOf(os.Stdout, arguments[1], arguments[2:])
	case len(arguments) >= 2 && arguments[0] == "keep":
		return keep(arguments[1], ended)
	case len(arguments) == 3 && arguments[0] == "append":
		return appendLine(arguments[1], arguments[2])
	case len(arguments) == 3 && arguments[0] == "serve":
		return serve(arguments[1], arguments[2], ended)
	}
	return errors.New("it is asked for nothing that it knows")
}

// Appends a line to a file that is there.
func appendLine(path, text string) error {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text + "\n")
	return errors.Join(err, file.Close())
}

// Opens a log to append to; every line is on disk before the next.
func openLog(path string) (func(text []byte) error, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return func(text []byte) error {
		if _, err := file.Write(text); err != nil {
			return err
		}
		return file.Sync()
	}, nil
}

// Appends rows until it is told to end; its first line says that it has started, its last that it was told to end.
func keep(path string, ended <-chan os.Signal) error {
	write, err := openLog(path)
	if err != nil {
		return err
	}
	if err := write([]byte("started\n")); err != nil {
		return err
	}
	seconds := time.NewTicker(time.Second)
	for row := 1; ; row++ {
		select {
		case <-seconds.C:
			if err := write(fmt.Appendf(nil, "row %d\n", row)); err != nil {
				return err
			}
		case <-ended:
			return write([]byte("stopped\n"))
		}
	}
}

// Serves until it is told to end; its first line says that it has started, its last that it was told to end.
func serve(address, path string, ended <-chan os.Signal) error {
	write, err := openLog(path)
	if err != nil {
		return err
	}
	if err := write([]byte("started\n")); err != nil {
		return err
	}
	http.HandleFunc("GET /", func(answer http.ResponseWriter, request *http.Request) { http.ServeFile(answer, request, path) })
	http.HandleFunc("POST /", func(answer http.ResponseWriter, request *http.Request) {
		text, err := io.ReadAll(request.Body)
		if err == nil {
			err = write(text)
		}
		if err != nil {
			http.Error(answer, err.Error(), http.StatusInternalServerError)
		}
	})
	fmt.Println("serving", address)
	failed := make(chan error, 1)
	go func() { failed <- http.ListenAndServe(address, nil) }()
	select {
	case err := <-failed:
		return err
	case <-ended:
		return write([]byte("stopped\n"))
	}
}
