"""Arrays only: what a person is shown of images and of work that goes on."""
