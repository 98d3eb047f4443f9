"""What flows through the system, frozen and checked when built, and the ports it flows through."""
