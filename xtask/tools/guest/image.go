package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
)

// Names and entry points of the images; those of the project's examples, which no registry has, stand in for what would be in them.
var images = map[string][]string{
	"testbed.local/guest:1":                  {"/guest"},
	"testbed.local/pause:1":                  {"/guest", "pause"},
	"registry.example/shop/db:1.0.0":         {"/guest", "keep", "/var/lib/db/log"},
	"registry.example/shop/web:1.0.0":        {"/guest", "pause"},
	"registry.example/devices/broker:1.0.0":  {"/guest", "keep", "/var/lib/broker/log"},
	"registry.example/devices/gateway:1.0.0": {"/guest", "pause"},
}

// Writes the archive that `docker save` would: images of one layer, in which is this program alone.
func writeImages(output io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return writeArchive(output, map[string]string{"guest": self}, images, nil)
}

// Writes an image of programs that are on this machine, with the files that they need, each where it is here.
func writeImageOf(output io.Writer, name string, files []string) error {
	inside := map[string]string{}
	for _, file := range files {
		path, source, found := strings.Cut(file, "=")
		if !found {
			return fmt.Errorf("%s is not PATH=FILE", file)
		}
		inside[strings.TrimPrefix(path, "/")] = source
	}
	return writeArchive(output, inside, map[string][]string{name: nil}, []string{"PATH=/usr/local/bin:/usr/bin:/bin"})
}

func writeArchive(output io.Writer, files map[string]string, images map[string][]string, environment []string) error {
	layer := new(bytes.Buffer)
	inLayer := tar.NewWriter(layer)
	for path, source := range files {
		content, err := os.ReadFile(source)
		if err != nil {
			return err
		}
		if err := add(inLayer, path, 0o755, content); err != nil {
			return err
		}
	}
	if err := inLayer.Close(); err != nil {
		return err
	}
	archive := tar.NewWriter(output)
	if err := add(archive, "layer.tar", 0o644, layer.Bytes()); err != nil {
		return err
	}
	var manifest []map[string]any
	for name, entry := range images {
		config, err := json.Marshal(map[string]any{
			"architecture": runtime.GOARCH,
			"os":           "linux",
			"config":       map[string]any{"Entrypoint": entry, "Env": environment},
			"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer.Bytes()))}},
		})
		if err != nil {
			return err
		}
		file := fmt.Sprintf("%x.json", sha256.Sum256(config))
		if err := add(archive, file, 0o644, config); err != nil {
			return err
		}
		manifest = append(manifest, map[string]any{"Config": file, "RepoTags": []string{name}, "Layers": []string{"layer.tar"}})
	}
	text, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	if err := add(archive, "manifest.json", 0o644, text); err != nil {
		return err
	}
	return archive.Close()
}

func add(archive *tar.Writer, name string, mode int64, content []byte) error {
	if err := archive.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := archive.Write(content)
	return err
}
