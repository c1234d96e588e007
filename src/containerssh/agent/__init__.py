"""The gateway's side of the guest agent's protocol (``docs/agent.md``)."""
