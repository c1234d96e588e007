module containerssh.io/agent

go 1.22
