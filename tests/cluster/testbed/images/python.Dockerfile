FROM scratch
ADD root.tar /
ENV PATH=/usr/local/bin:/usr/bin:/bin
CMD ["python3"]
