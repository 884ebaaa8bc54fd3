module roadstead.dev/tools/guest

go 1.24.0
